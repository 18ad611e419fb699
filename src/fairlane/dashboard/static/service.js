// The service of each tenant a second, stacked: those with most of it by name, all others above.

import { chartWithLegend } from "./charts.js";
import { by, rate, shown, write } from "./dom.js";

const SLOTS = 12;
const CHOOSE_S = 10; // how long the named ones stay at least
const MEAN_S = 5; // clients take turns by batches: what each gets in one second says little

/** What is left for others; what comes of rounding is nothing. */
const rest = (all, named) => (all - named > 0.001 * all ? all - named : 0);

/** Each point as the mean of the last `n`. */
function smooth(points, n) {
  let sum = 0;
  return points.map((value, i) => {
    sum += value - (i >= n ? points[i - n] : 0);
    return Math.max(0, sum / Math.min(i + 1, n));
  });
}

export class ServiceChart {
  /** open: called with the path of a tenant that is to be shown in detail. */
  constructor(open) {
    this.open = open;
    this.series = Array.from({ length: SLOTS }, (_, i) => ({ label: "", colour: `--c${i}` }));
    this.series.push({ label: "others", colour: "--others" });
    [this.chart, this.legend] = chartWithLegend("service", {
      series: this.series, stacked: true, format: rate });
    this.slots = new Array(SLOTS).fill(null);
    this.chosen = 0;
    this.model = null;
  }

  /** group: whose members are shown; null: everyone. */
  draw(model, group) {
    if (model !== this.model || group !== this.group || model.frame.t - this.chosen >= CHOOSE_S) {
      if (group !== this.group) this.slots.fill(null);
      [this.model, this.group] = [model, group];
      this._choose();
    }
    write(by("service-title"), group === null ? "Service by tenant" : `Service in ${shown(group)}`);
    const { from, span } = model.reach("total");
    const times = model.times.list(from);
    const mean = (points) => smooth(points, Math.max(1, Math.round(MEAN_S / model.hello.period_s)));
    const values = this.slots.map((path) => mean(this._points(path, from, times.length)));
    const all = mean(group === null
      ? model.overall.total.list(from).map((value) => value ?? 0) : this._sum(from, times.length));
    const others = times.map((_, i) =>
      rest(all[i], values.reduce((sum, points) => sum + points[i], 0)));
    this.slots.forEach((path, i) => {
      Object.assign(this.series[i], { label: path ?? "", value: values[i].at(-1) });
    });
    const newest = this.series.filter(({ label }, i) => i < SLOTS && label)
      .map(({ label, value }) => `${shown(label)} ${rate(value)}`);
    this.chart.set(times, [...values, others], span,
      `Service a second by tenant: ${newest.join(", ") || "none"}`);
    this._label(others);
  }

  _label(others) {
    const named_ = this.series.slice(0, SLOTS).filter(({ label }) => label).map((one) => {
      const { label } = one; // another may take its place by the time of a click
      return { ...one, open: () => this.open(label) };
    });
    const last = { ...this.series[SLOTS], value: others.at(-1) };
    this.legend.set(others.some((value) => value > 0) ? [...named_, last] : named_);
  }

  /** Those with most service in the minutes that are drawn; who stays keeps the colour. */
  _choose() {
    const sums = this.model.members(this.group)
      .map((row) => [this.model.rates.get(row.client)?.sum() ?? 0, row.client])
      .filter(([sum]) => sum > 0)
      .sort((a, b) => b[0] - a[0] || (a[1] < b[1] ? -1 : 1));
    const best = sums.slice(0, SLOTS).map(([, path]) => path);
    this.slots = this.slots.map((path) => (best.includes(path) ? path : null));
    for (const path of best) {
      if (!this.slots.includes(path)) this.slots[this.slots.indexOf(null)] = path;
    }
    this.chosen = best.length < SLOTS ? 0 : this.model.frame.t; // a newcomer is named at once
  }

  _points(path, from, length) {
    const series = path === null ? null : this.model.rates.get(path);
    return series ? Array.from(series.points.subarray(from), (value) => value || 0)
      : new Array(length).fill(0);
  }

  _sum(from, length) {
    const all = new Array(length).fill(0);
    for (const row of this.model.members(this.group)) {
      this._points(row.client, from, length).forEach((value, i) => { all[i] += value; });
    }
    return all;
  }

  /** Take up the colours of another theme. */
  redraw() {
    this.chart.redraw();
    this.legend.redraw();
  }
}
