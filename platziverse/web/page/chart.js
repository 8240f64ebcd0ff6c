// One chart: an average as a line, lowest and highest as a band, over equal steps of time. uPlot draws it if the
// build has it, else a plain line.

import { el, extent, moment, path, short, shown, svg, table, ticks, withUnit, write } from "./elements.js";
import { Touch } from "./touch.js";

const HEIGHT = 200;
/** A gap is drawn where nothing came for so many times the usual distance of two points. */
const GAP = 3;
const { build, charts } = document.documentElement.dataset;

let library = null;

/** Load uPlot once; fires with its constructor, or null if the build has none. */
export function loadLibrary() {
  library ??= new Promise((resolve) => {
    if (charts !== "uplot") {
      resolve(null);
      return;
    }
    const folder = `page/${build}`;
    document.head.append(el("link", { rel: "stylesheet", href: `${folder}/uplot.css` }));
    const found = () => resolve(window.uPlot ?? null);
    document.head.append(el("script", { src: `${folder}/uplot.js`, load: found, error: found }));
  });
  return library;
}

/** How uPlot writes moments: for each distance of two, from the longest on, the text, and what a new year, day or minute adds. */
const DAY = 86400000;
const TIMES = [
  [365 * DAY, "{YYYY}", null, null, null, null, null, null, 1],
  [28 * DAY, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [DAY, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60000, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [1000, "{HH}:{mm}:{ss}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, ":{ss}.{fff}", "\n{HH}:{mm}", null, "\n{HH}:{mm}", null, "\n{HH}:{mm}", null, 1],
];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The points of a series: what the API has summed up, and what has come since. */
class Points {
  constructor() {
    this.list = [];
    this.step = 1000;
  }

  /** Take [time, avg, min, max, count] for each step; those with nothing in them are left out. */
  load(points, step) {
    this.step = step;
    this.list = points.filter(([, average]) => average !== null);
  }

  /** Take one more value: of the last step, or of a new one. */
  add(time, value) {
    const start = Math.floor(time / this.step) * this.step;
    const last = this.list[this.list.length - 1];
    if (last === undefined || start > last[0]) this.list.push([start, value, value, value, 1]);
    else if (start === last[0]) {
      const count = last[4] + 1;
      last.splice(1, 4, last[1] + (value - last[1]) / count, Math.min(last[2], value), Math.max(last[3], value), count);
    }
  }

  /** Return the columns of the points from a moment on, with nulls where there is a gap. */
  columns(from) {
    const points = this.list.filter(([time]) => time >= from - this.step);
    const distances = points.slice(1).map(([time], index) => time - points[index][0]).sort((one, other) => one - other);
    const usual = Math.max(this.step, distances[Math.floor(distances.length / 2)] ?? 0);
    const columns = [[], [], [], []];
    points.forEach((point, index) => {
      const before = points[index - 1];
      if (before && point[0] - before[0] > GAP * usual) columns.forEach((column, place) => column.push(place ? null : before[0] + usual));
      columns.forEach((column, place) => column.push(point[place]));
    });
    return columns;
  }
}

/** What uPlot draws; `area` is the element without the axes. */
class Drawn {
  constructor(uPlot, place, chart) {
    [this.place, this.chart] = [place, chart];
    const [text, grid, line, band] = ["--quiet", "--grid", "--line", "--band"].map(colour);
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 }, font: "11px system-ui, sans-serif" };
    const hidden = { stroke: "transparent", width: 0, points: { show: false } };
    this.plot = new uPlot(
      {
        width: this.#width(),
        height: HEIGHT,
        ms: 1,
        legend: { show: false },
        padding: [10, 12, 0, 0],
        scales: { x: { range: () => [chart.from, chart.to] } },
        axes: [{ ...axis, values: TIMES, space: 64 }, { ...axis, size: 48, values: (_, values, __, ___, step) => ticks(values, step) }],
        series: [{}, { stroke: line, width: 1.75 }, { ...hidden }, { ...hidden }],
        bands: [{ series: [3, 2], fill: band }],
        cursor: { y: false, drag: { x: true, y: false, setScale: false }, sync: { key: "agent", setSeries: false } },
        hooks: { setSelect: [(plot) => this.#selected(plot)], setCursor: [(plot) => chart.pointed(plot.cursor.idx)] },
      },
      [[], [], [], []],
      place,
    );
    this.area = this.plot.over;
    this.watch = new ResizeObserver(() => this.plot.setSize({ width: this.#width(), height: HEIGHT }));
    this.watch.observe(place);
  }

  #width() {
    return Math.max(200, this.place.clientWidth);
  }

  #selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    this.chart.zoom(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  draw(columns) {
    this.plot.setData(columns);
  }

  /** Put the cursor, here and in the other charts, at a point. */
  point(time, value) {
    this.plot.setCursor({ left: this.plot.valToPos(time, "x"), top: this.plot.valToPos(value, "y") }, true, true);
  }

  close() {
    this.watch.disconnect();
    this.plot.destroy();
  }
}

/** What is drawn without uPlot: a line, and a stroke as cursor. */
class Plain {
  constructor(place, chart) {
    this.chart = chart;
    this.line = svg("path", { class: "line" });
    this.cursor = svg("path", { class: "stroke" });
    this.low = el("span");
    this.high = el("span");
    this.area = this.element = svg("svg", { class: "plain", viewBox: `0 0 600 ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.line, this.cursor);
    place.replaceChildren(el("div", { class: "plain-scale" }, this.high, this.low), this.element);
    this.element.addEventListener("mousemove", (event) => this.#move(event));
    this.columns = [[], []];
  }

  #move(event) {
    const box = this.element.getBoundingClientRect();
    const time = this.chart.from + ((event.clientX - box.left) / box.width) * (this.chart.to - this.chart.from);
    const distances = this.columns[0].map((one) => Math.abs(one - time));
    this.chart.pointed(distances.indexOf(Math.min(...distances)));
  }

  draw(columns) {
    this.columns = columns;
    const points = columns[0].map((time, index) => [time, columns[1][index]]);
    const found = extent(points);
    write(this.high, found ? short(found.high) : "");
    write(this.low, found ? short(found.low) : "");
    this.line.setAttribute("d", path(points, this.chart.from, this.chart.to, 600, HEIGHT));
  }

  point(time) {
    const x = ((time - this.chart.from) / (this.chart.to - this.chart.from)) * 600;
    this.cursor.setAttribute("d", `M${x.toFixed(1)} 0V${HEIGHT}`);
    this.chart.pointed(this.columns[0].indexOf(time));
  }

  close() {}
}

/** A figure of one series, with its readout, and its table if that is wanted. */
export class Chart {
  /**
   * @param {object} series of the Store.
   * @param {(from: number, to: number) => void} zoom called with the time that was chosen.
   */
  constructor(series, zoom) {
    Object.assign(this, { series, zoom, from: 0, to: 1, columns: [[], [], [], []], index: null, held: false });
    this.points = new Points();
    this.readout = el("p", { class: "readout" });
    this.plot = el("div", { class: "plot", role: "img", tabindex: "0", keydown: (event) => this.#key(event) });
    this.rows = el("div");
    this.unit = el("span", { class: "quiet" });
    const title = el("h2", {}, el("span", {}, series.type), " ", this.unit);
    this.element = el("figure", { class: "chart" }, el("figcaption", {}, title, this.readout), this.plot, this.rows);
    this.drawing = null;
  }

  /** Begin to draw, or do so anew with other colours. */
  async start() {
    const uPlot = await loadLibrary();
    if (!this.plot.isConnected) return;
    this.drawing?.close();
    this.plot.replaceChildren();
    this.drawing = uPlot ? new Drawn(uPlot, this.plot, this) : new Plain(this.plot, this);
    this.touch = new Touch(this.drawing.area, this);
    this.draw();
  }

  close() {
    this.drawing?.close();
  }

  /** Draw the time from a moment to another, unless fingers hold another one. */
  window(from, to) {
    if (this.held) return;
    [this.from, this.to] = [from, to];
    this.draw();
  }

  /** Draw another time while fingers hold it. */
  hold(from, to) {
    this.held = false;
    this.window(from, to);
    this.held = true;
  }

  /** Zoom to what was held. */
  release() {
    this.held = false;
    this.zoom(this.from, this.to);
  }

  /** Move the cursor to the point next to a part of the width. */
  at(part) {
    const [times, averages] = this.columns;
    const time = this.from + part * (this.to - this.from);
    let next = null;
    times.forEach((one, place) => {
      if (averages[place] !== null && (next === null || Math.abs(one - time) < Math.abs(times[next] - time))) next = place;
    });
    if (next !== null) this.#put(next);
  }

  draw() {
    this.columns = this.points.columns(this.from);
    const { unit } = this.series;
    write(this.unit, unit ? `(${unit})` : "");
    this.plot.setAttribute("aria-label", this.#label());
    this.drawing?.draw(this.columns);
    if (this.index === null) this.pointed(null);
  }

  #label() {
    const [times, averages, lowest, highest] = this.columns;
    const found = extent(times.map((time, index) => [time, averages[index]]));
    const { type, unit } = this.series;
    if (found === null) return `${type}: nothing in this time`;
    const low = extent(lowest.map((value, index) => [times[index], value])).low;
    const high = extent(highest.map((value, index) => [times[index], value])).high;
    return `${type}: lowest ${withUnit(low, unit)}, highest ${withUnit(high, unit)}, last ${withUnit(found.last, unit)}. Arrow keys move the cursor.`;
  }

  /** Say what is at a place of the columns; null: the newest value. */
  pointed(index) {
    const [times, averages, lowest, highest] = this.columns;
    this.index = index ?? null;
    const { unit, value } = this.series;
    if (this.index === null || averages[index] === null || averages[index] === undefined) {
      write(this.readout, typeof value === "number" ? `now ${withUnit(value, unit)}` : "");
      return;
    }
    const range = lowest[index] === highest[index] ? "" : `, ${shown(lowest[index])} to ${shown(highest[index])}`;
    write(this.readout, `${moment(times[index])}: ${withUnit(averages[index], unit)}${range}`);
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity };
    if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own
    if (event.key in steps) this.#move(steps[event.key] * (event.shiftKey ? 10 : 1));
    else if (["+", "=", "-"].includes(event.key)) this.#scale(event.key === "-" ? 2 : 0.5);
    else return;
    event.preventDefault();
  }

  #move(steps) {
    const [, averages] = this.columns;
    const places = [...averages.keys()].filter((place) => averages[place] !== null);
    if (!places.length) return;
    const here = places.indexOf(this.index ?? places[places.length - 1]);
    this.#put(places[Math.min(places.length - 1, Math.max(0, here + steps))]);
    write(document.getElementById("said"), this.readout.textContent);
  }

  /** Put the cursor at a place of the columns. */
  #put(place) {
    const [times, averages] = this.columns;
    this.drawing?.point(times[place], averages[place]);
    this.pointed(place);
  }

  /** Zoom around the cursor. */
  #scale(factor) {
    const centre = this.index === null ? (this.from + this.to) / 2 : this.columns[0][this.index];
    const half = ((this.to - this.from) * factor) / 2;
    this.zoom(centre - half, centre + half);
  }

  /** Show the points as a table, or do so no longer. */
  tabulate(wanted) {
    const unit = this.series.unit ? ` in ${this.series.unit}` : "";
    const cells = ([time, ...values]) => [moment(time), ...values.map(shown)];
    const columns = ["Time", "Average", "Lowest", "Highest", "Readings"];
    const rows = this.points.list.filter(([time]) => time >= this.from - this.points.step).map(cells).reverse();
    this.rows.replaceChildren(...(wanted ? [table(`${this.series.type}${unit}`, columns, rows)] : []));
  }
}
