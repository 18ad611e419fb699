// Lines and stacks over the last minutes, drawn by uPlot (a global: it is a script of its own).

import { by, el, named, number, write } from "./dom.js";

const FONT = "11px Inter, system-ui, sans-serif";
const MINUTE_S = 60;

const styles = getComputedStyle(document.documentElement);
/** A colour of the style sheet, as it is in the theme of now. */
const colour = (name) => canvasColour(styles.getPropertyValue(name).trim());

/** Whether it is dark now: the canvas cannot follow light-dark() by itself. */
export const isDark = () => styles.colorScheme === "dark"
  || (styles.colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);

function canvasColour(value) {
  const both = /^light-dark\(([^,]+),\s*([^)]+)\)$/.exec(value);
  return both ? both[isDark() ? 2 : 1].trim() : value;
}

/** The distance between labels of the time axis: two to five of them. */
const stepOf = (span) => [30, 60, 120, 180, 300, 600].find((step) => span / step <= 5) ?? 1200;

const ago = (time, newest) => {
  const s = Math.round(newest - time);
  return s === 0 ? "now" : s % MINUTE_S ? `${s} s ago` : `${s / MINUTE_S} min ago`;
};

/** A chart in a container.
 *
 *  series: [{ label, colour (a name in the style sheet), dash, fill }]
 *  stacked: each series is drawn on those before it.
 *  format: how a value is written. highest: the least that the axis reaches up to. */
export class Chart {
  constructor(container, { series, stacked = false, format = number, highest = 1 }) {
    this.container = container;
    this.series = series;
    this.stacked = stacked;
    this.format = format;
    this.span = 300;
    this.values = [];
    this.tip = el("div", { class: "tip", hidden: true });
    const options = {
      width: Math.max(60, container.clientWidth),
      height: Math.max(60, container.clientHeight),
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      padding: [8, 16, 0, 0],
      scales: {
        x: { time: true, range: (_, low, high) => [(high ?? 1) - this.span, high ?? 1] },
        y: { range: (_, low, high) => [0, Math.max(highest, 1.08 * (high ?? 0))] },
      },
      axes: [this._time(), this._amount()],
      series: [{}, ...series.map((one) => this._line(one))],
      bands: stacked ? series.slice(1).map((_, i) => ({ series: [i + 2, i + 1] })) : [],
      hooks: { setCursor: [() => this._point()] },
    };
    this.plot = new uPlot(options, [[], ...series.map(() => [])], container);
    container.append(this.tip);
    container.setAttribute("role", "img");
    new ResizeObserver(() => {
      if (container.clientWidth > 0) {
        this.plot.setSize({ width: container.clientWidth, height: container.clientHeight });
      }
    }).observe(container);
  }

  _time() {
    return {
      font: FONT, stroke: () => colour("--faint"), grid: { show: false }, ticks: { show: false },
      size: 26, gap: 6,
      splits: (_, __, low, high) => {
        const step = stepOf(high - low);
        const found = [];
        for (let at = high; at > low + step / 4; at -= step) found.unshift(at);
        return found;
      },
      values: (plot, splits) => splits.map((at) => ago(at, plot.scales.x.max)),
    };
  }

  _amount() {
    return {
      font: FONT, stroke: () => colour("--faint"), size: 52, gap: 6, space: 36,
      grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false },
      values: (_, splits) => splits.map((value) => this.format(value)),
    };
  }

  _line(one) {
    const opaque = this.stacked ? "d9" : one.fill ? "2b" : "";
    return {
      stroke: () => colour(one.colour),
      fill: opaque ? () => `${colour(one.colour)}${opaque}` : undefined,
      width: this.stacked ? 0 : 1.75,
      dash: one.dash,
      points: { show: false },
      spanGaps: false,
    };
  }

  /** Draw. times: Unix seconds, newest last; values: a list (null: unknown) for each series. */
  set(times, values, span, summary) {
    this.span = span;
    this.values = values;
    const drawn = this.stacked ? stack(values) : values;
    this.plot.setData([times, ...drawn]);
    this.container.setAttribute("aria-label", summary);
  }

  /** Take up the colours of another theme. */
  redraw() {
    this.plot.redraw(false, true);
  }

  _point() {
    const at = this.plot.cursor.idx;
    const over = at !== null && at !== undefined && this.plot.cursor.left >= 0;
    this.tip.hidden = !over;
    if (!over) return;
    const rows = this.series
      .map((one, i) => [one, this.values[i]?.[at]])
      .filter(([one, value]) => value !== null && value !== undefined && one.label
        && (!this.stacked || value > 0));
    if (this.stacked) rows.reverse();
    const clock = new Date(1000 * this.plot.data[0][at]).toLocaleTimeString();
    this.tip.replaceChildren(el("strong", {}, clock), ...rows.map(([one, value]) =>
      el("span", { class: "pair" }, key(one), el("b", {}, this.format(value)))));
    const left = this.plot.cursor.left + 52;
    const flip = left > this.container.clientWidth - 190;
    this.tip.style.transform = `translate(${flip ? left - 12 : left + 12}px, 8px)`;
    this.tip.classList.toggle("flip", flip);
  }
}

function key(one) {
  const swatch = el("i", { class: one.dash ? "swatch dashed" : "swatch" });
  swatch.style.color = colour(one.colour);
  return el("span", { class: "key" }, swatch, named(one.label));
}

function stack(values) {
  let below = null;
  return values.map((points) => {
    below = points.map((value, i) => (below?.[i] ?? 0) + (value ?? 0));
    return below;
  });
}

/** What the colours of a chart mean, and the newest values. Keeps its elements. */
export class Legend {
  constructor(list, format = number) {
    this.list = list;
    this.format = format;
    this.items = new Map();
  }

  /** series: [{ label, colour, dash, value, open }]. open: what a click on it does. */
  set(series) {
    const wanted = series.map((one) => this._item(one));
    const same = wanted.length === this.list.children.length
      && wanted.every((item, i) => this.list.children[i] === item);
    if (!same) this.list.replaceChildren(...wanted);
    for (const [id, item] of this.items) if (!wanted.includes(item.element)) this.items.delete(id);
  }

  _item(one) {
    const id = `${one.colour} ${one.label}`;
    if (!this.items.has(id)) {
      const value = el("b");
      const inner = one.open
        ? el("button", { type: "button", onclick: one.open }, key(one), value)
        : el("span", {}, key(one), value);
      this.items.set(id, { element: el("li", {}, inner), value });
    }
    const item = this.items.get(id);
    write(item.value, one.value === undefined ? "" : this.format(one.value));
    return item.element;
  }

  /** Take up the colours of another theme. */
  redraw() {
    this.items.clear();
    this.list.replaceChildren();
  }
}

/** A chart and its legend, by the ids in the page. */
export const chartWithLegend = (id, options) =>
  [new Chart(by(id), options), new Legend(by(`${id}-legend`), options.format)];
