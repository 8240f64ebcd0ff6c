// The broker: how much comes and goes, how long a PUBACK takes, what waits, and who is connected.

import { bytes, el, moment, plural, shown, span, Sparkline, table, write } from "./elements.js";
import { address, ask } from "./feed.js";

/** Samples of a line, one a second; milliseconds between two looks at the lists, and rows of one. */
const SAMPLES = 300;
const LISTS = 5000;
const ROWS = 100;

const rate = (value) => `${shown(Math.round(value * 10) / 10)}/s`;
const milliseconds = (seconds) => (seconds === null ? "–" : seconds < 1 ? `${shown(Number((seconds * 1000).toPrecision(3)))}\u00a0ms` : `${shown(Number(seconds.toPrecision(3)))}\u00a0s`);
const latency = (name) => ({ latency: found }) => `${milliseconds(found[name].p50)} / ${milliseconds(found[name].p99)}`;

/** What is shown: the group, its name, the text, and the number of a line if there is one. */
const TILES = [
  ["Messages", "received", ({ rates }) => rate(rates.messagesReceived), ({ rates }) => rates.messagesReceived],
  ["Messages", "sent", ({ rates }) => rate(rates.messagesSent), ({ rates }) => rates.messagesSent],
  ["Messages", "readings stored", ({ rates }) => rate(rates.reportsStored), ({ rates }) => rates.reportsStored],
  ["Messages", "dropped", ({ totals }) => shown(totals.messagesDropped)],
  ["Messages", "rejected", ({ totals }) => shown(totals.reportsRejected)],
  ["Messages", "refused", ({ totals }) => shown(totals.refusals)],
  ["Messages", "bytes in, out", ({ rates }) => `${bytes(rates.bytesReceived)}/s, ${bytes(rates.bytesSent)}/s`],
  ["Latency, half / 99 %", "PUBACK", latency("puback"), ({ latency: found }) => found.puback.p99],
  ["Latency, half / 99 %", "commit", latency("commit"), ({ latency: found }) => found.commit.p99],
  ["Latency, half / 99 %", "turn of the reactor", latency("turn")],
  ["Clients", "connected", ({ clients }) => shown(clients.connected)],
  ["Clients", "of MQTT 5, 3.1.1, 3.1", ({ clients }) => ["5", "3.1.1", "3.1"].map((version) => shown(clients.protocols[version])).join(", ")],
  ["Clients", "agents", ({ clients }) => shown(clients.agents)],
  ["Clients", "Sessions, absent", ({ clients }) => `${shown(clients.sessions)}, ${shown(clients.absent)}`],
  ["Clients", "Subscriptions", ({ clients }) => shown(clients.subscriptions)],
  ["Clients", "Retained Messages", ({ clients }) => shown(clients.retainedMessages)],
  ["Queues", "unfinished messages", ({ queues }) => `${shown(queues.unfinishedMessages)}, ${bytes(queues.unfinishedBytes)}`],
  ["Queues", "readings that wait", ({ queues }) => shown(queues.pendingReports + queues.waitingEntries)],
  ["Queues", "connections held", ({ queues }) => shown(queues.heldConnections)],
  ["Queues", "memory", ({ memory }) => (memory.budget ? `${bytes(memory.used)} of ${bytes(memory.budget)}` : bytes(memory.used))],
  ["Daemon", "database", ({ database }) => database.state],
  ["Daemon", "running for", ({ uptime }) => span(uptime * 1000)],
  ["Daemon", "version", ({ version }) => version],
  ["Daemon", "daemons", ({ clients }) => shown(clients.daemons)],
];

class Tile {
  constructor([group, name, text, number]) {
    Object.assign(this, { group, text, number, points: [] });
    this.value = el("dd", {}, "–");
    this.spark = number ? new Sparkline(150, 26) : null;
    if (this.spark) this.value = el("span", {}, "–");
    const place = this.spark ? el("dd", {}, this.value, this.spark.element) : this.value;
    this.element = el("div", {}, el("dt", {}, name), place);
  }

  draw(found) {
    write(this.value, this.text(found));
    if (!this.spark) return;
    const number = this.number(found);
    if (number !== null) this.points.push([found.time, number]); // no PUBACK, no latency
    if (this.points.length > SAMPLES) this.points.shift();
    this.spark.draw(this.points);
  }
}

const subscriptions = (row) => {
  const shownOnes = row.subscriptions.slice(0, 5).map(({ filter, qos }) => `${filter} (${qos})`);
  const rest = row.subscriptionCount - shownOnes.length;
  return [...shownOnes, ...(rest > 0 ? [`and ${rest} more`] : [])].join(", ") || "–";
};

/** The version of the protocol, and what CONNECT of MQTT 5 says: sessionExpiryInterval is shown as "session expiry interval". */
const protocol = (row) => {
  const words = (name) => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  const asked = Object.entries(row.properties ?? {}).map(([name, value]) => `${words(name)} ${value}`);
  return asked.length ? `${row.protocol}: ${asked.join(", ")}` : row.protocol;
};

const when = (time) => (time ? moment(Date.parse(time)) : "–");

const TABLES = [
  ["clients", "Clients", ["Client", "User", "Address", "Since", "MQTT", "Subscriptions", "Queue", "Dropped"], (row) => [row.id, row.user ?? "–", row.address, when(row.since), protocol(row), subscriptions(row), shown(row.queue), shown(row.dropped)]],
  ["sessions", "Durable Sessions", ["Client", "User", "State", "Subscriptions", "Messages", "Bytes", "Oldest"], (row) => [row.client, row.user ?? "–", row.connected ? "connected" : `absent since ${when(row.absentSince)}`, subscriptions(row), shown(row.messages), bytes(row.bytes), when(row.oldest)]],
  ["daemons", "Daemons", ["Number", "Name", "Version", "State", "Seen", "Sessions"], (row) => [String(row.number), row.name, row.version, row.state, when(row.seenAt), shown(row.sessions)]],
];

export class BrokerView {
  constructor(main, context) {
    this.tiles = TILES.map((tile) => new Tile(tile));
    const groups = [...new Set(TILES.map(([group]) => group))].map((group) =>
      el("section", { class: "group" }, el("h2", {}, group), el("dl", {}, ...this.tiles.filter((tile) => tile.group === group).map((tile) => tile.element))),
    );
    this.lists = el("div", { class: "lists" });
    this.texts = new Map();
    main.append(el("h1", {}, "Broker"), el("div", { class: "groups" }, ...groups), this.lists);
    document.title = "Broker – platziverse";
    this.ticking = setInterval(() => this.#tables().catch(() => {}), LISTS); // the state of the stream says why
    if (context.broker) this.broker(context.broker);
  }

  close() {
    clearInterval(this.ticking);
  }

  broker(found) {
    for (const tile of this.tiles) tile.draw(found);
  }

  async caughtUp() {
    await this.#tables();
  }

  /** Ask for the lists; one that is as it was is left alone, so that a selection stays. */
  async #tables() {
    if (document.hidden) return;
    for (const [name, title, columns, cells] of TABLES) {
      const rows = await ask(address(name, { limit: ROWS }));
      const text = JSON.stringify(rows);
      if (this.texts.get(name) === text) continue;
      this.texts.set(name, text);
      const found = rows.length ? table(title, columns, rows.map(cells)) : el("p", { class: "quiet" }, `${title}: none`);
      const more = rows.length === ROWS ? el("p", { class: "quiet" }, `the first ${plural(ROWS, "row")}; the others: `, el("a", { href: address(name) }, `api/${name}`)) : null;
      const section = el("section", { "data-name": name }, found, ...(more ? [more] : []));
      const old = [...this.lists.children].find((child) => child.dataset.name === name);
      if (old) old.replaceWith(section);
      else this.lists.append(section);
    }
  }
}
