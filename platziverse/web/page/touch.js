// Fingers on a chart: one moves the cursor, two zoom; up and down the page scrolls as ever.

/** Follows the fingers on one chart. */
export class Touch {
  /**
   * @param {Element} element where they are.
   * @param {{from: number, to: number, at: (part: number) => void, hold: (from: number, to: number) => void, release: () => void}} chart
   *   shows the time between two moments; `at` moves its cursor to a part of its width, `hold` shows another time while
   *   fingers are down, `release` keeps that.
   */
  constructor(element, chart) {
    Object.assign(this, { element, chart, fingers: new Map(), grip: null });
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, (event) => this.#up(event));
  }

  #down(event) {
    if (event.pointerType !== "touch") return;
    this.element.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, event.clientX);
    // Each finger holds the moment that it has come down on.
    if (this.fingers.size === 2) this.grip = new Map([...this.fingers].map(([id, x]) => [id, this.#moment(x)]));
  }

  #move(event) {
    if (!this.fingers.has(event.pointerId)) return;
    this.fingers.set(event.pointerId, event.clientX);
    if (this.grip !== null) this.#pinch();
    else if (this.fingers.size === 1) this.chart.at(this.#part(event.clientX));
  }

  /** Show the time in which both moments are below their fingers. */
  #pinch() {
    const [[one, x], [other, y]] = this.fingers;
    const [first, last] = [this.grip.get(one), this.grip.get(other)];
    if (Math.sign(y - x) !== Math.sign(last - first)) return; // they have crossed
    const scale = (last - first) / (y - x);
    const { left, width } = this.element.getBoundingClientRect();
    const from = first - (x - left) * scale;
    this.chart.hold(from, from + width * scale);
  }

  #up(event) {
    if (!this.fingers.delete(event.pointerId) || this.grip === null) return;
    this.grip = null;
    this.chart.release();
  }

  #part(x) {
    const { left, width } = this.element.getBoundingClientRect();
    return (x - left) / width;
  }

  #moment(x) {
    return this.chart.from + this.#part(x) * (this.chart.to - this.chart.from);
  }
}
