// The page: which view is shown, the state of the connection, and when what has changed is drawn.

import { AgentView } from "./agent.js";
import { AgentsView } from "./agents.js";
import { BrokerView } from "./broker.js";
import { el, moment, say, write } from "./elements.js";
import { Feed, Store } from "./feed.js";
import { RejectedView } from "./rejected.js";

/** Milliseconds between two drawings of what has changed. */
const INTERVAL = 250;
const VIEWS = { agents: AgentsView, agent: AgentView, rejected: RejectedView, broker: BrokerView };
const { version } = document.documentElement.dataset;
const main = document.getElementById("main");

let view = null;
let shown = "";
let timer = null;
let since = null;
let asked = 0;
let loading = false;

/** What the views share. */
const context = {
  store: new Store(draw),
  broker: null,
  live: false,
  notice,
};

/** Draw soon what has changed; at once after something was loaded. */
function draw(now = false) {
  if (now) {
    clearTimeout(timer);
    timer = null;
    flush();
  } else timer ??= setTimeout(flush, INTERVAL);
}

function flush() {
  timer = null;
  const { store } = context;
  const { changed, moved } = store;
  [store.changed, store.moved] = [new Set(), new Set()];
  view?.update?.(changed, moved);
}

/** Show a line above the view, or, without a text, take it away. */
function notice(name, text, ...more) {
  const place = document.getElementById("notices");
  const old = [...place.children].find((child) => child.dataset.name === name);
  if (!text) old?.remove();
  else if (old?.firstChild.textContent !== text) {
    old?.remove();
    place.append(el("p", { class: "notice", "data-name": name }, el("span", {}, text), ...more));
  }
}

/** Read the part of the address behind #: the view, what it is of, and its parameters. */
function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  let argument = "";
  try {
    argument = decodeURIComponent(rest.join("/"));
  } catch {
    return { name: "agents", argument: "", query: new URLSearchParams() };
  }
  return { name: Object.hasOwn(VIEWS, name) ? name : "agents", argument, query: new URLSearchParams(query ?? "") };
}

function go() {
  const { name, argument, query } = route();
  const address = `${name}/${argument}`;
  if (view !== null && shown === address) {
    view.route?.(query);
    return;
  }
  const first = view === null;
  view?.close?.();
  main.replaceChildren();
  view = new VIEWS[name](main, context, argument);
  shown = address;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.dataset.view === name || (name === "agent" && link.dataset.view === "agents");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.route?.(query);
  if (!first) {
    main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
  feed.open(name === "agents" ? [] : [name === "agent" ? argument : ""]);
}

const STATES = {
  live: "live",
  connecting: "connecting",
  paused: "paused",
  polling: "not live",
  away: "no connection",
};

/** Show how the connection is; who loses it is told since when, and why if it is known. */
function state(name, reason) {
  context.live = name === "live";
  const place = document.getElementById("state");
  if (place.dataset.state === "away" && name === "connecting") return;
  place.dataset.state = name;
  write(document.getElementById("state-text"), STATES[name]);
  if (name === "away") since ??= Date.now();
  else if (name === "live" && since !== null) {
    say("live again, and caught up");
    since = null;
  }
  const why = reason || "it does not answer";
  notice("away", name === "away" ? `No connection to the daemon since ${moment(since)}: ${why}. Trying again; what is shown is from before.` : "");
  notice("polling", name === "polling" ? "The daemon opens no event stream now (web.max_streams); this page asks again now and then." : "");
}

/** Load all that may have been missed; whoever asks while that goes on is served once more afterwards. */
async function caughtUp() {
  asked += 1;
  if (loading) return;
  loading = true;
  for (let served = 0; served !== asked; ) {
    served = asked;
    await load();
  }
  loading = false;
}

async function load() {
  try {
    const { name, argument } = route();
    if (name === "agents" || (name === "agent" && !context.store.loaded)) await context.store.load();
    else if (name === "agent") await context.store.load([argument]);
    await view.caughtUp?.();
    notice("load", "");
  } catch (error) {
    notice("load", `Could not load: ${error.message}`, el("button", { type: "button", click: caughtUp }, "Try again"));
  }
}

function broker(found) {
  context.broker = found;
  const count = found.totals.reportsRejected;
  const badge = document.getElementById("rejections");
  badge.hidden = count === 0;
  write(badge, String(count));
  const away = found.database.state;
  notice("database", away === "ready" ? "" : `The database is ${away}. Nothing that was acknowledged is lost; what comes now waits.`);
  if (found.version !== version) {
    const reload = el("button", { type: "button", click: () => location.reload() }, "Reload");
    notice("version", `This page is of version ${version}, the daemon of ${found.version}.`, reload);
  } else notice("version", "");
  view?.broker?.(found);
}

const feed = new Feed({
  state,
  broker,
  opened: caughtUp,
  metric: (found) => context.store.metric(found),
  connected: (found) => context.store.presence(true, found),
  disconnected: (found) => context.store.presence(false, found),
  rejected: (found) => view?.rejected?.(found),
  dropped: caughtUp,
});

window.addEventListener("hashchange", go);
document.addEventListener("keydown", (event) => view?.key?.(event));
go();
