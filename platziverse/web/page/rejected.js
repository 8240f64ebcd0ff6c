// Rejected messages: why they could not become rows, and what they were.

import { bytes, el, moment, plural, say, write } from "./elements.js";
import { address, ask } from "./feed.js";

const LIMIT = 50;
/** Characters of a payload that are shown. */
const LONGEST = 20000;

/** Return bytes as lines of sixteen: their place, in hexadecimal, and as text. */
function dump(base64) {
  const data = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).slice(0, LONGEST / 5);
  const lines = [];
  for (let start = 0; start < data.length; start += 16) {
    const row = [...data.slice(start, start + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    const text = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${start.toString(16).padStart(6, "0")}  ${hex}  ${text}`);
  }
  return lines.join("\n");
}

function payload(found) {
  if (found.text === null) return dump(found.payload);
  return found.text.length > LONGEST ? `${found.text.slice(0, LONGEST)}…` : found.text;
}

/** Return what MQTT 5 has sent with a message, name by name. */
function properties(found) {
  if (!found) return [];
  const { userProperties = [], leftOut = 0, ...named } = found;
  const rest = leftOut ? [["…", `${leftOut} more`]] : [];
  const rows = [...Object.entries(named), ...userProperties, ...rest];
  return [el("dl", { class: "properties", "aria-label": "Properties" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]))];
}

export class RejectedView {
  constructor(main, context) {
    this.context = context;
    this.seen = new Set();
    this.before = null;
    this.list = el("ul", { class: "rejections", "aria-label": "Rejected messages" });
    this.none = el("p", { class: "quiet" }, "loading…");
    this.more = el("button", { type: "button", class: "more", hidden: true, click: () => this.#page() }, "Show older ones");
    main.append(
      el("h1", {}, "Rejected messages"),
      el("p", { class: "quiet" }, "What could not be stored, the newest first. A row opens the payload. When the cause is mended, whoever has the role admin stores a message again here; ", el("code", {}, "platziverse rejected replay"), " stores all that is valid by then."),
      this.none,
      this.list,
      this.more,
    );
    document.title = "Rejected – platziverse";
  }

  /** Add what has been missed above what is shown; when that is more than a page begin anew. */
  async caughtUp() {
    const page = await ask(address("rejected", { limit: LIMIT }));
    if (!page.rows.some((row) => this.seen.has(row.id))) {
      this.seen.clear();
      this.list.replaceChildren();
      this.#add(page);
      return;
    }
    for (const row of page.rows.reverse()) this.#put(row, true);
  }

  async #page() {
    this.#add(await ask(address("rejected", { limit: LIMIT, before: this.before })));
  }

  #add(page) {
    this.before = page.next;
    this.more.hidden = page.next === null;
    for (const row of page.rows) this.#put(row, false);
    this.#counted();
  }

  /** One more has been stored. */
  rejected(row) {
    this.#put(row, true);
    this.#counted();
  }

  #counted() {
    this.none.hidden = this.seen.size > 0;
    write(this.none, "Nothing was rejected.");
  }

  #put(row, first) {
    if (this.seen.has(row.id)) return;
    this.seen.add(row.id);
    const parts = [el("span", { class: "reason" }, row.reason), el("span", { class: "topic" }, row.topic)];
    const when = el("time", { class: "quiet", datetime: new Date(row.time).toISOString() }, moment(row.time));
    const sender = [row.client, row.address].filter(Boolean).join(" · ");
    const client = el("span", { class: "client quiet" }, sender);
    const place = el("div", { class: "payload" });
    const details = el("details", {}, el("summary", {}, when, ...parts, client), place);
    details.addEventListener("toggle", () => details.open && this.#open(row, place));
    const element = el("li", {}, details);
    if (first) this.list.prepend(element);
    else this.list.append(element);
  }

  /** Return whether the visitor may store messages again, or a login may that the browser would ask for. */
  async #mayReplay() {
    this.reader ??= ask(address("reader"));
    try {
      const { user, mayChange, admins } = await this.reader;
      return mayChange || (user === null && admins);
    } catch {
      this.reader = undefined;
      return false;
    }
  }

  /** Return a button that stores a message again, and what came of it. */
  #replay(id) {
    const told = el("span", { class: "quiet" });
    const press = async () => {
      button.disabled = true;
      try {
        const { metricsAdded } = await ask(address(`rejected/${id}/replay`), "POST");
        write(told, ` stored again: ${plural(metricsAdded, "metric")} added`);
      } catch (error) {
        button.disabled = false;
        write(told, ` not stored: ${error.message}`);
      }
      say(told.textContent);
    };
    const button = el("button", { type: "button", class: "replay", click: press }, "Store again");
    return el("p", {}, button, told);
  }

  async #open(row, place) {
    if (place.firstChild) return;
    try {
      const found = await ask(address(`rejected/${row.id}`));
      const cut = found.fullSize > found.size ? `, of ${bytes(found.fullSize)}` : "";
      const replayed = found.replayed === null ? "" : ` · stored again ${moment(found.replayed)}`;
      place.replaceChildren(
        el("p", { class: "quiet" }, `message ${found.id} · ${bytes(found.size)}${cut} · ${found.text === null ? "no text" : "text"}${replayed}`),
        ...properties(found.properties),
        el("pre", { tabindex: "0", role: "region", "aria-label": `Payload of message ${found.id}` }, payload(found)),
      );
      if (found.replayed === null && (await this.#mayReplay())) place.append(this.#replay(found.id));
    } catch (error) {
      place.replaceChildren(el("p", { class: "notice" }, error.message));
    }
  }
}
