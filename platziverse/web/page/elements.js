// Elements, and how numbers and times are written. Text becomes text nodes, never markup: whatever an agent is
// called, it is shown as that.

const SVG = "http://www.w3.org/2000/svg";

/** Fill an element: a function is a listener, true an empty attribute; false and null are left out. */
function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

/** Set the text of an element, if it is another one. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 6 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 3 });

/** Return a number as people read it; the text of a metric stays as it is, a long one is cut. */
export function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return value.length > 200 ? `${value.slice(0, 200)}…` : value;
  const size = Math.abs(value);
  if (size >= 1e15 || (size !== 0 && size < 1e-6)) return value.toExponential(4);
  return Number.isInteger(value) ? whole.format(value) : precise.format(value);
}

/** Return the numbers of an axis: with as many digits as their distance has, or, if they are large, by thousands. */
export function ticks(values, step) {
  const largest = Math.max(...values.map(Math.abs));
  if (largest >= 1e15) return values.map((value) => value.toExponential(1));
  if (largest >= 1e5 && step >= 100) return values.map((value) => thousands.format(value));
  const digits = Math.min(12, Math.max(0, Math.ceil(-Math.log10(step) - 1e-9), decimals(step)));
  return values.map((value) => value.toFixed(digits));
}

const thousands = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 2 });
const decimals = (step) => (String(step).includes("e") ? 0 : (String(step).split(".")[1] ?? "").length);

export const short = (value) => (value === null || value === undefined ? "–" : compact.format(value));
export const withUnit = (value, unit) => (unit ? `${shown(value)}\u00a0${unit}` : shown(value));
export const plural = (count, noun) => `${whole.format(count)} ${noun}${count === 1 ? "" : "s"}`;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

/** Return a moment in milliseconds: its time of the day, and the day if it is another than today. */
export function moment(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock.format(date) : `${day.format(date)} ${clock.format(date)}`;
}

const SPANS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** Return a length of time in its largest unit. */
export function span(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  const [unit, size] = SPANS.find(([, least]) => seconds >= least) ?? SPANS[3];
  return `${Math.floor(seconds / size)}\u00a0${unit}`;
}

/** Return bytes in their unit. */
export function bytes(count) {
  const power = Math.min(4, count > 1 ? Math.floor(Math.log2(count) / 10) : 0);
  return `${precise.format(Math.round((count / 1024 ** power) * 10) / 10)}\u00a0${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

/** Return the lowest, highest and last of points [time, value]. */
export function extent(points) {
  let [low, high, last] = [Infinity, -Infinity, null];
  for (const [, value] of points) {
    if (value === null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
    last = value;
  }
  return last === null ? null : { low, high, last };
}

/** Return the path of points [time, value] in a box; null is a gap. One point alone is a short stroke. */
export function path(points, from, to, width, height) {
  const found = extent(points);
  if (found === null) return "";
  const room = found.high - found.low || 1;
  const flat = found.high === found.low;
  let [text, pen] = ["", false];
  for (const [time, value] of points) {
    if (value === null) {
      pen = false;
      continue;
    }
    const x = to > from ? ((time - from) / (to - from)) * width : width;
    const y = flat ? height / 2 : height - 2 - ((value - found.low) / room) * (height - 4);
    text += `${pen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    if (!pen) text += `h.01`;
    pen = true;
  }
  return text;
}

/** A small line; one number alone is a dot, and what is not known is left out. */
export class Sparkline {
  constructor(width = 140, height = 28) {
    [this.width, this.height] = [width, height];
    this.line = svg("path", { class: "line" });
    this.area = svg("path", { class: "area" });
    this.element = svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, this.area, this.line);
  }

  draw(all) {
    const points = all.filter(([, value]) => value !== null);
    const from = points.length ? points[0][0] : 0;
    const to = points.length ? points[points.length - 1][0] : 0;
    const line = path(points, from, to, this.width - 2, this.height);
    this.element.toggleAttribute("hidden", line === "");
    this.line.setAttribute("d", line);
    this.line.setAttribute("class", to > from ? "line" : "line one");
    this.area.setAttribute("d", to > from ? `${line}V${this.height}H0Z` : "");
  }
}

/** A table with a heading for each column; cells are texts or elements. */
export function table(caption, columns, rows) {
  const head = el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)));
  const body = rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell ?? "–"))));
  const whole = el("table", {}, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, ...body));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, whole);
}

/** Say something to those who hear the page. */
export const say = (text) => write(document.getElementById("said"), text);
