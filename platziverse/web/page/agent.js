// One agent: a chart for each type that has numbers, over an hour to a year, and what its other types say.

import { linkTo, presence } from "./agents.js";
import { Chart } from "./chart.js";
import { el, plural, shown, span, write } from "./elements.js";
import { address, ask } from "./feed.js";

const HOUR = 3600000;
const RANGES = { "1h": HOUR, "6h": 6 * HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR, "30d": 720 * HOUR, "1y": 8760 * HOUR };
const NAMES = { "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d", "30d": "30 d", "1y": "1 y" };
const SOURCES = { raw: "every reading", "5m": "5-minute roll-ups", "1h": "hourly roll-ups" };
/** Charts that are drawn at first, and again with each "more"; series of one question. */
const SHOWN = 12;
const SERIES = 20;
/** Points of a chart, by its width in pixels. */
const [FEWEST, MOST] = [120, 1000];
/** Milliseconds after which what was added here is asked for again. */
const AGAIN = 60000;
/** Milliseconds of the shortest time that can be zoomed into. */
const SHORTEST = 10000;

export class AgentView {
  constructor(main, context, uuid) {
    Object.assign(this, { context, uuid, charts: new Map(), texts: new Map(), range: "1h", zoomed: null, most: SHOWN, tabled: false });
    this.asked = 0;
    this.#build(main);
    document.title = `${uuid} – platziverse`;
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.recolour = () => this.charts.forEach((chart) => chart.start());
    this.scheme.addEventListener("change", this.recolour);
    this.again = setInterval(() => this.#again(), AGAIN);
    this.moving = setInterval(() => this.#move(), 1000);
    this.#describe();
  }

  #build(main) {
    this.name = el("h1", {}, this.uuid);
    this.presence = el("span", { class: "presence" });
    this.about = el("p", { class: "quiet about" });
    this.ranges = Object.keys(RANGES).map((range) => el("a", { href: `${linkTo(this.uuid)}?range=${range}`, "data-range": range }, NAMES[range]));
    this.step = el("p", { class: "quiet step" });
    this.csv = el("a", { class: "button", download: true }, "CSV");
    this.table = el("button", { type: "button", "aria-pressed": "false", click: () => this.#tabulate() }, "Table");
    this.reset = el("a", { class: "button", hidden: true }, "Reset zoom");
    this.trouble = el("p", { class: "notice", hidden: true });
    this.place = el("div", { class: "charts" });
    this.more = el("button", { type: "button", class: "more", hidden: true, click: () => this.#showMore() }, "Show more");
    this.others = el("dl", { class: "texts", hidden: true });
    main.append(
      el("p", { class: "back" }, el("a", { href: "#/" }, "← Agents")),
      el("div", { class: "title" }, this.name, this.presence),
      this.about,
      el("div", { class: "tools" }, el("nav", { class: "ranges", "aria-label": "Range" }, ...this.ranges), this.step, el("div", { class: "buttons" }, this.reset, this.csv, this.table)),
      this.trouble,
      this.place,
      this.more,
      this.others,
      el("p", { class: "quiet hint" }, "Drag over a chart to zoom, Esc goes back; on a touch screen zoom with two fingers. With the keyboard: arrows move the cursor, + and − zoom."),
    );
  }

  close() {
    clearInterval(this.again);
    clearInterval(this.moving);
    this.scheme.removeEventListener("change", this.recolour);
    this.charts.forEach((chart) => chart.close());
  }

  /** Show the range, or the time between two moments, that the address names. */
  route(query) {
    const [from, to] = [Number(query.get("from")), Number(query.get("to"))];
    const range = query.get("range");
    this.range = Object.hasOwn(RANGES, range) ? range : "1h";
    this.zoomed = from > 0 && to > from ? [from, to] : null;
    for (const link of this.ranges) {
      if (link.dataset.range === this.range && !this.zoomed) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    this.reset.hidden = !this.zoomed;
    this.reset.href = `${linkTo(this.uuid)}?range=${this.range}`;
    this.#ask();
  }

  key(event) {
    // By the address, which is ahead of the view until its hashchange comes.
    if (event.key === "Escape" && location.hash.includes("from=")) location.hash = this.reset.hash;
  }

  /** Ask anew: events may have been missed. */
  async caughtUp() {
    this.#describe();
    await this.#ask();
  }

  update(changed, moved) {
    if (moved.has(this.uuid)) {
      this.#describe();
      if (this.#numbers().some((series) => !this.charts.has(series.type)) && this.charts.size < this.most) this.#ask();
    }
    for (const series of changed) {
      if (series.agent.uuid !== this.uuid) continue;
      const chart = this.charts.get(series.type);
      if (chart && !this.zoomed && typeof series.value === "number") {
        chart.points.add(series.time, series.value);
        chart.draw();
      }
    }
    if (changed.size) this.#others();
  }

  get agent() {
    return this.context.store.agents.get(this.uuid);
  }

  /** Return the series with numbers, in order of their types. */
  #numbers() {
    const series = [...(this.agent?.series.values() ?? [])].filter(({ value }) => typeof value === "number");
    return series.sort((one, other) => (one.type < other.type ? -1 : 1));
  }

  #describe() {
    const { agent } = this;
    const { loaded } = this.context.store;
    if (!agent) {
      write(this.about, loaded ? "There is no such agent." : "loading…");
      return;
    }
    document.title = `${agent.name} – platziverse`;
    write(this.name, agent.name);
    write(this.presence, presence(agent).join(" "));
    this.presence.dataset.state = agent.connected ? "connected" : "away";
    const parts = [agent.hostname && `on ${agent.hostname}`, agent.username && `of ${agent.username}`, agent.pid && `pid ${agent.pid}`];
    write(this.about, [`uuid ${agent.uuid}`, ...parts.filter(Boolean)].join(" · "));
    this.#others();
  }

  #window() {
    return this.zoomed ?? [Date.now() - RANGES[this.range], Date.now()];
  }

  /** Ask for the points of all charts; an answer that another question has overtaken is forgotten. */
  async #ask() {
    const series = this.#numbers().slice(0, this.most);
    this.more.hidden = this.#numbers().length <= this.most;
    this.#charted(series);
    if (!series.length) return;
    this.asked += 1;
    const number = this.asked;
    const [from, to] = this.#window();
    const points = Math.min(MOST, Math.max(FEWEST, Math.floor(this.place.clientWidth / 2)));
    try {
      for (let start = 0; start < series.length; start += SERIES) {
        const type = series.slice(start, start + SERIES).map((one) => one.type);
        const query = { agent: this.uuid, type, from: Math.round(from), to: Math.round(to), points, agg: "avg,min,max,count" };
        const answer = await ask(address("series", query));
        if (number !== this.asked) return;
        this.#loaded(answer, from, to);
      }
      this.trouble.hidden = true;
    } catch (error) {
      write(this.trouble, `No charts: ${error.message}`);
      this.trouble.hidden = false;
    }
  }

  #charted(series) {
    for (const one of series) {
      if (this.charts.has(one.type)) continue;
      const chart = new Chart(one, (from, to) => this.#zoom(from, to));
      this.charts.set(one.type, chart);
      this.place.append(chart.element);
      chart.start();
    }
  }

  #loaded(answer, from, to) {
    const { step, source } = answer;
    for (const { type, points } of answer.series) {
      const chart = this.charts.get(type);
      if (!chart) continue;
      chart.points.load(points, step);
      chart.window(from, to);
      if (this.tabled) chart.tabulate(true);
    }
    write(this.step, `steps of ${span(step)}, from ${SOURCES[source]}`);
    this.csv.href = address("export", { agent: this.uuid, from: Math.round(from), to: Math.round(to), source });
  }

  /** Let the time go on. */
  #move() {
    if (this.zoomed || document.hidden) return;
    const [from, to] = this.#window();
    const pixel = (to - from) / Math.max(200, this.place.clientWidth);
    this.charts.forEach((chart) => to - chart.to > pixel && chart.window(from, to));
    write(this.presence, this.agent ? presence(this.agent).join(" ") : "");
  }

  #again() {
    if (!this.zoomed && !document.hidden && this.context.live) this.#ask();
  }

  #zoom(from, to) {
    const missing = Math.max(0, SHORTEST - (to - from)) / 2;
    const longest = [to - RANGES["1y"], Date.now()];
    const ends = [Math.max(longest[0], from - missing), Math.min(longest[1], to + missing)].map(Math.round);
    if (ends[0] < ends[1]) location.hash = `${linkTo(this.uuid)}?range=${this.range}&from=${ends[0]}&to=${ends[1]}`;
    else this.charts.forEach((chart) => chart.window(...this.#window())); // of a time that is to come there is nothing
  }

  #tabulate() {
    this.tabled = !this.tabled;
    this.table.setAttribute("aria-pressed", String(this.tabled));
    this.charts.forEach((chart) => chart.tabulate(this.tabled));
  }

  #showMore() {
    this.most += SHOWN;
    this.#ask();
  }

  /** Show the newest value of each type that is no number. */
  #others() {
    const texts = [...(this.agent?.series.values() ?? [])].filter(({ value }) => typeof value === "string");
    this.others.hidden = !texts.length;
    for (const { type, value } of texts) {
      if (!this.texts.has(type)) {
        const place = el("dd");
        this.texts.set(type, place);
        this.others.append(el("div", {}, el("dt", {}, type), place));
      }
      write(this.texts.get(type), shown(value));
    }
    if (this.agent && !this.agent.series.size && this.context.store.loaded) write(this.step, plural(0, "reading"));
  }
}
