// The agents: who is connected, the newest value of each type, and how it has been in the last hour.

import { el, plural, say, shown, Sparkline, span, withUnit, write } from "./elements.js";

/** Agents that are drawn at first, and again with each "more"; types of each of them. */
const SHOWN = 100;
const TYPES = 12;

const MESSAGE = {
  agent: { uuid: "yyy", name: "platzi", username: "platzi", pid: 10, hostname: "platzibogota" },
  metrics: [{ type: "memory", value: "1001" }, { type: "temp", value: "33" }],
};

export const linkTo = (uuid) => `#/agent/${encodeURIComponent(uuid)}`;

/** Whether an agent is connected, as a sign and a word. */
export function presence(agent) {
  const away = agent.since ? `away ${span(Date.now() - agent.since)}` : "away";
  return [agent.connected ? "●" : "○", agent.connected ? "connected" : away];
}

/** The row of one type. */
class Row {
  constructor(series) {
    this.series = series;
    this.value = el("span", { class: "value" });
    this.spark = new Sparkline();
    this.element = el("li", { class: "row" }, el("span", { class: "type" }, series.type), this.value, this.spark.element);
  }

  /** Write the value; the line, which costs more, is drawn for those who can see it. */
  draw(seen) {
    write(this.value, withUnit(this.series.value, this.series.unit));
    if (seen) this.spark.draw(this.series.points);
  }
}

/** One agent with its rows. */
class Card {
  constructor(agent) {
    this.agent = agent;
    this.rows = new Map();
    this.seen = false;
    this.name = el("a", { class: "name", href: linkTo(agent.uuid) });
    this.sign = el("span", { "aria-hidden": "true" });
    this.word = el("span");
    this.presence = el("span", { class: "presence" }, this.sign, " ", this.word);
    this.more = el("span", { class: "quiet" });
    this.list = el("ul", { class: "rows" });
    this.element = el("li", { class: "agent" }, el("div", { class: "who" }, this.name, this.presence, this.more), this.list);
    this.draw();
  }

  draw() {
    const { agent } = this;
    const [sign, word] = presence(agent);
    write(this.name, agent.name);
    write(this.sign, sign);
    write(this.word, word);
    this.presence.dataset.state = agent.connected ? "connected" : "away";
    for (const series of [...agent.series.values()].slice(0, TYPES)) {
      if (!this.rows.has(series.type)) {
        const row = new Row(series);
        this.rows.set(series.type, row);
        this.list.append(row.element);
      }
      this.rows.get(series.type).draw(this.seen);
    }
    const rest = agent.series.size - this.rows.size;
    write(this.more, rest > 0 ? `and ${plural(rest, "more type")}` : agent.hostname || "");
  }
}

function matches(agent, words, connectedOnly) {
  if (connectedOnly && !agent.connected) return false;
  if (!words.length) return true;
  const text = [agent.name, agent.uuid, agent.username, agent.hostname, ...agent.series.keys()].join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

const { compare } = new Intl.Collator(undefined, { numeric: true });

export class AgentsView {
  constructor(main, context) {
    this.context = context;
    this.cards = new Map();
    this.byElement = new WeakMap();
    this.watch = new IntersectionObserver((entries) => entries.forEach((entry) => this.#seen(entry)), { rootMargin: "100px" });
    this.most = SHOWN;
    this.filter = el("input", {
      type: "search",
      id: "filter",
      placeholder: "name, host or type",
      autocomplete: "off",
      input: () => this.arrange(),
    });
    this.connected = el("input", { type: "checkbox", id: "connected", change: () => this.arrange() });
    this.count = el("p", { class: "quiet count", id: "count" });
    this.list = el("ul", { class: "agents", "aria-label": "Agents" });
    this.more = el("button", { type: "button", class: "more", hidden: true, click: () => this.#showMore() }, "Show more");
    this.welcome = el("div");
    this.tools = el(
      "div",
      { class: "tools" },
      el("label", { class: "field" }, el("span", {}, "Filter"), this.filter),
      el("label", { class: "check" }, this.connected, "connected only"),
      this.count,
    );
    const heads = ["Type", "Value", "Last hour"].map((text) => el("span", {}, text));
    this.heads = el("div", { class: "heads", "aria-hidden": "true" }, el("span", {}, "Agent"), el("div", { class: "row" }, ...heads));
    main.append(el("h1", { class: "unseen" }, "Agents"), this.tools, this.welcome, this.heads, this.list, this.more);
    document.title = "platziverse";
    this.ticking = setInterval(() => this.#tick(), 10000);
    this.arrange();
  }

  close() {
    clearInterval(this.ticking);
    this.watch.disconnect();
  }

  key(event) {
    if (event.key === "/" && event.target.tagName !== "INPUT" && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      this.filter.focus();
    }
  }

  /** Draw what has changed. */
  update(changed, moved) {
    if (moved.size || !this.drawn) {
      for (const uuid of moved) this.cards.get(uuid)?.draw();
      this.arrange();
    }
    for (const series of changed) {
      const card = this.cards.get(series.agent.uuid);
      card?.rows.get(series.type)?.draw(card.seen);
    }
  }

  #seen({ target, isIntersecting }) {
    const card = this.byElement.get(target);
    card.seen = isIntersecting;
    if (isIntersecting) card.draw();
  }

  #card(agent) {
    const card = new Card(agent);
    this.cards.set(agent.uuid, card);
    this.byElement.set(card.element, card);
    this.watch.observe(card.element);
    return card;
  }

  /** Put the agents that match in order; of many only the first are drawn. */
  arrange() {
    const { agents, loaded } = this.context.store;
    this.drawn = loaded;
    for (const uuid of this.cards.keys()) if (!agents.has(uuid)) this.cards.delete(uuid);
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const order = [...agents.values()].sort((one, other) => compare(one.name, other.name) || (one.uuid < other.uuid ? -1 : 1));
    const found = [];
    let count = 0;
    for (const agent of order) {
      if (!matches(agent, words, this.connected.checked)) continue;
      count += 1;
      if (count > this.most) continue;
      found.push((this.cards.get(agent.uuid) ?? this.#card(agent)).element);
    }
    place(this.list, found);
    this.more.hidden = count <= this.most;
    this.#counted(count, agents.size);
    this.#welcome(loaded && agents.size === 0);
  }

  #counted(count, all) {
    const { store } = this.context;
    const whole = `${plural(all, "agent")}, ${shown(store.series)} series`;
    const text = count === all ? whole : `${plural(count, "agent")} of ${all}`;
    write(this.count, store.loaded ? text + (store.partial ? " (there are more than this page takes)" : "") : "loading…");
    this.tools.hidden = this.heads.hidden = store.loaded && all === 0;
  }

  #showMore() {
    this.most += SHOWN;
    this.arrange();
  }

  #tick() {
    for (const card of this.cards.values()) if (!card.agent.connected) card.draw();
  }

  #welcome(empty) {
    if (empty && !this.welcome.firstChild) this.welcome.append(welcome());
    if (!empty && this.welcome.firstChild) {
      this.welcome.replaceChildren();
      if (this.context.store.agents.size) say("The first reading is here");
    }
  }
}

/** Bring the children of an element in an order, and touch only those that are elsewhere. */
function place(parent, wanted) {
  const kept = new Set(wanted);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  let next = parent.firstChild;
  for (const element of wanted) {
    if (element === next) next = next.nextSibling;
    else parent.insertBefore(element, next);
  }
}

/** What to type when there is nothing yet. */
function welcome() {
  const secure = location.protocol === "https:";
  const port = location.port || (secure ? "443" : "80");
  const host = location.hostname.replace(/^\[|\]$/g, "");
  const message = JSON.stringify(MESSAGE);
  const mqtt = `mqtt pub -t 'agent/message' -h ${host} -p ${port}${secure ? " -C mqtts" : ""} -m '${message}'`;
  const mosquitto = `mosquitto_pub -q 1 -t agent/message -h ${host} -p ${port}${secure ? " --tls-use-os-certs" : ""} -m '${message}'`;
  return el(
    "section",
    { class: "welcome" },
    el("h2", {}, "No readings yet"),
    el("p", {}, "Type this in a terminal, and watch this page:"),
    command(mqtt),
    el("p", { class: "quiet" }, "The command comes with npm install -g mqtt. With Mosquitto’s:"),
    command(mosquitto),
    el("p", { class: "quiet" }, "Any MQTT client will do. What is wrong with a message is said under Rejected."),
  );
}

function command(text) {
  const copy = el("button", { type: "button", class: "copy" }, "Copy");
  copy.hidden = !navigator.clipboard;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    write(copy, "Copied");
    say("Copied");
  });
  return el("div", { class: "command" }, el("pre", {}, el("code", {}, text)), copy);
}
