// What the daemon tells: its API, its event stream, and what is known of agents from both.

const HOUR = 3600000;
const FIVE_MINUTES = 300000;
/** Points of a sparkline; when there are more every second one goes. */
const POINTS = 60;
/** Rows of a page of the API, and how many pages are asked for. */
const LIMIT = 1000;
const PAGES = 20;
/** Milliseconds without any event, of which one comes each second, until the stream is taken for dead. */
const SILENCE = 15000;
/** Milliseconds until it is tried again: the first time, and at most. */
const [SOON, LATE] = [1000, 15000];

/** Fetch JSON; throws an Error with the daemon's own words. With POST something changes, which takes a login. */
export async function ask(address, method = "GET") {
  const answer = await fetch(address, { method, cache: "no-store", headers: { Accept: "application/json" } });
  const text = await answer.text();
  let found = null;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error(`no answer of a daemon (${answer.status})`);
  }
  if (!answer.ok) throw new Error(found.error ?? `error ${answer.status}`);
  return found;
}

/** Return the address of an API with its parameters; a list gives its name several times. */
export function address(name, parameters = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined) query.append(key, one);
  }
  const text = query.toString();
  return text ? `api/${name}?${text}` : `api/${name}`;
}

/** What is known of one type of an agent: its newest value, and the points [time, value] of its small line. */
export class Series {
  constructor(agent, type) {
    Object.assign(this, { agent, type, unit: null, value: null, time: 0, points: [] });
  }

  /** Take a new value; an older one than is known changes nothing. */
  add(value, time) {
    if (time < this.time) return false;
    [this.value, this.time] = [value, time];
    if (typeof value === "number") this.#remember(time, value);
    return true;
  }

  /** Keep a point, unless the average of its five minutes has a later place: a line never goes back. */
  #remember(time, value) {
    if (this.points.length && time <= this.points[this.points.length - 1][0]) return;
    this.points.push([time, value]);
    const old = this.points.findIndex(([then]) => then > time - HOUR);
    if (old > 0) this.points.splice(0, old);
    if (this.points.length > POINTS) this.points = this.points.filter((_, index) => index % 2 === (this.points.length - 1) % 2);
  }

  /** Take a row of /api/latest: averages of five minutes come before what was seen since. */
  load(row, now) {
    // The last of them is the one that is over, not the one that runs.
    const first = (Math.floor(now / FIVE_MINUTES) - (row.spark ?? []).length) * FIVE_MINUTES;
    this.unit = row.unit;
    const spark = (row.spark ?? []).map((value, index) => [first + (index + 0.5) * FIVE_MINUTES, value]);
    const known = spark.filter(([, value]) => value !== null);
    const since = known.length > 1 ? known[known.length - 1][0] : 0;
    this.points = [...known.slice(0, since ? undefined : 0), ...this.points.filter(([time]) => time > since)];
    if (row.value !== null && row.time !== null && row.time > this.time) this.add(row.value, row.time);
  }
}

/** What is known of agents; `changed` has the series, `moved` the agents that are new, have come or gone. */
export class Store {
  constructor(news) {
    this.agents = new Map();
    this.changed = new Set();
    this.moved = new Set();
    this.loaded = false;
    this.partial = false;
    this.news = news;
    this.unknown = new Set();
    this.asking = null;
  }

  get series() {
    let count = 0;
    for (const agent of this.agents.values()) count += agent.series.size;
    return count;
  }

  #agent(uuid) {
    let agent = this.agents.get(uuid);
    if (agent === undefined) {
      agent = { uuid, name: uuid, username: "", hostname: "", pid: null, connected: true, since: null, series: new Map() };
      this.agents.set(uuid, agent);
      this.moved.add(uuid);
    }
    return agent;
  }

  #series(agent, type) {
    let series = agent.series.get(type);
    if (series === undefined) {
      series = new Series(agent, type);
      agent.series.set(type, series);
      this.moved.add(agent.uuid);
    }
    return series;
  }

  /** An event of values. */
  metric({ agent: uuid, time, values }) {
    if (!this.agents.has(uuid)) this.#look(uuid);
    const agent = this.#agent(uuid);
    for (const [type, value] of Object.entries(values)) {
      if (!agent.series.has(type)) this.#look(uuid);
      const series = this.#series(agent, type);
      if (series.add(value, time)) this.changed.add(series);
    }
    this.news();
  }

  /** An event of one that has come or gone. */
  presence(event, { agent: found }) {
    const agent = this.#agent(found.uuid);
    const { name, username, hostname, pid } = found;
    if (event) Object.assign(agent, { name: name || found.uuid, username, hostname, pid });
    Object.assign(agent, { connected: event, since: Date.now() });
    this.moved.add(agent.uuid);
    this.news();
  }

  /** Ask soon for the name or the units of an agent: when its first rows are stored. */
  #look(uuid) {
    this.unknown.add(uuid);
    this.asking ??= setTimeout(() => {
      const uuids = [...this.unknown].slice(0, 20);
      this.asking = null;
      for (const one of uuids) this.unknown.delete(one);
      this.load(uuids).catch(() => {}); // the next one tells more; the state of the stream tells of trouble
      if (this.unknown.size) this.#look([...this.unknown][0]);
    }, 1000);
  }

  /** Ask for all agents, or for some, and the newest values of theirs. */
  async load(uuids = []) {
    const some = uuids.length > 0;
    const [people, values] = await Promise.all([
      some ? [] : this.#people(),
      pages("latest", { agent: uuids, connected: "all" }, (page) => [page.rows, page.next]),
    ]);
    const found = new Set();
    for (const row of people) found.add(this.#person(row).uuid);
    const now = Date.now();
    for (const row of values.rows) {
      const agent = this.#agent(row.uuid);
      found.add(row.uuid);
      Object.assign(agent, { name: row.name || row.uuid, connected: row.connected });
      this.moved.add(row.uuid);
      this.#series(agent, row.type).load(row, now);
    }
    if (!some) this.#whole(found, values.more);
    this.news(true);
  }

  async #people() {
    const { rows, more } = await pages("agents", { connected: "all" }, (page) => [
      page,
      page.length === LIMIT ? page[page.length - 1].id : null,
    ]);
    this.partial = more;
    return rows;
  }

  #person(row) {
    const agent = this.#agent(row.uuid);
    const { name, username, hostname, pid, connected } = row;
    Object.assign(agent, { name: name || row.uuid, username, hostname, pid, connected, since: Date.parse(row.updatedAt) });
    this.moved.add(agent.uuid);
    return agent;
  }

  #whole(found, more) {
    this.partial ||= more;
    this.loaded = true;
    for (const uuid of this.agents.keys()) {
      if (!found.has(uuid) && !this.unknown.has(uuid) && !this.partial) {
        this.agents.delete(uuid);
        this.moved.add(uuid);
      }
    }
  }
}

/** Ask for page after page; returns the rows, and whether there are more than were asked for. */
async function pages(name, parameters, take) {
  const rows = [];
  let after = null;
  for (let count = 0; count < PAGES; count += 1) {
    const [found, next] = take(await ask(address(name, { ...parameters, limit: LIMIT, after })));
    rows.push(...found);
    after = next;
    if (after === null) break;
  }
  return { rows, more: after !== null };
}

/** The event stream: it is opened again when it breaks, and closed while nobody looks. */
export class Feed {
  /**
   * @param {object} heard by event: what is called with its data; and `state` with a word and a reason,
   *   `opened` whenever events may have been missed.
   */
  constructor(heard) {
    this.heard = heard;
    this.agents = [];
    this.source = null;
    this.timer = null;
    this.wait = SOON;
    this.last = 0;
    document.addEventListener("visibilitychange", () => this.#look());
    setInterval(() => this.#check(), 1000);
  }

  /** Hear of these agents from now on; none: of all. */
  open(agents) {
    this.agents = agents;
    this.wait = SOON;
    this.#look();
  }

  #look() {
    this.#close();
    if (document.hidden) this.heard.state("paused", "");
    else this.#open();
  }

  #close() {
    clearTimeout(this.timer);
    if (this.source !== null) this.source.close();
    this.source = null;
  }

  #open() {
    const source = new EventSource(address("events", { agent: this.agents }));
    this.source = source;
    this.last = Date.now();
    source.onopen = () => {
      this.wait = SOON;
      this.last = Date.now();
      this.heard.state("live", "");
      this.heard.opened();
    };
    source.onerror = () => this.#broken();
    for (const name of ["metric", "connected", "disconnected", "rejected", "broker", "dropped"]) {
      source.addEventListener(name, (event) => {
        this.last = Date.now();
        this.heard[name](JSON.parse(event.data));
      });
    }
  }

  #check() {
    if (this.source !== null && Date.now() - this.last > SILENCE) this.#broken();
  }

  /** Try again, later each time and not all pages at once; find out why in the daemon's own words. */
  async #broken() {
    this.#close();
    this.timer = setTimeout(() => this.#look(), this.wait * (0.5 + Math.random()));
    this.wait = Math.min(LATE, this.wait * 2);
    try {
      await ask("api/broker");
      if (this.source !== null) return;
      this.heard.state(this.wait > 4 * SOON ? "polling" : "connecting", "");
      this.heard.opened();
    } catch (error) {
      if (this.source === null) this.heard.state("away", error instanceof TypeError ? "" : error.message);
    }
  }
}
