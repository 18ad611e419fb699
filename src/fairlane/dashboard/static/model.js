// What the page knows: the newest row of each client, and the last minutes of each.

const AT_LEAST = 300; // points that are kept
const AT_MOST = 900;
const LATELY_S = 10; // a share of one second jumps about; of ten it can be read

/** The last points of one quantity, the newest at the end; NaN where nothing is known. */
class Series {
  constructor(length) {
    this.points = new Float64Array(length).fill(NaN);
  }

  push(value) {
    this.points.copyWithin(0, 1);
    this.points[this.points.length - 1] = value ?? NaN;
  }

  /** Lay values over its end. */
  fill(values) {
    const kept = values.slice(-this.points.length);
    this.points.set(kept.map((value) => value ?? NaN), this.points.length - kept.length);
  }

  sum(last = this.points.length) {
    let sum = 0;
    for (const value of this.points.subarray(-last)) if (value === value) sum += value;
    return sum;
  }
}

const OVERALL = ["total", "now", "bound", "queued", "running", "p50", "p99"];

/** Everything that the stream said. */
export class Model {
  /** hello: the stream's first event. */
  constructor(hello) {
    this.hello = hello;
    this.columns = hello.columns;
    this.frame = null;
    this.rows = new Map();
    const history = hello.history ?? { t: [] };
    this.length = Math.min(AT_MOST, Math.max(AT_LEAST, history.t.length));
    this.times = new Series(this.length);
    this.times.fill(history.t);
    this.overall = Object.fromEntries(OVERALL.map((name) => [name, new Series(this.length)]));
    for (const name of OVERALL) this.overall[name].fill(history[name] ?? []);
    this.rates = new Map();
    for (const [client, values] of Object.entries(history.clients ?? {})) {
      const series = new Series(this.length);
      series.fill(values);
      this.rates.set(client, series);
    }
  }

  /** A frame: the rows that changed, and what holds for all. */
  take(frame) {
    this.frame = frame;
    for (const row of frame.clients) {
      const named = Array.isArray(row)
        ? Object.fromEntries(this.columns.map((column, i) => [column, row[i]]))
        : row;
      this.rows.set(named.client, named);
    }
    for (const client of frame.gone ?? []) {
      this.rows.delete(client);
      this.rates.delete(client);
    }
    this._note(frame);
  }

  _note(frame) {
    this.times.push(frame.t);
    for (const [client, row] of this.rows) {
      if (!this.rates.has(client)) this.rates.set(client, new Series(this.length));
      this.rates.get(client).push(row.rate);
    }
    const top = this.members(null);
    const sum = (column) => top.reduce((all, row) => all + (row[column] ?? 0), 0);
    const served = top.filter((row) => row.ttft_p50 !== null).sort((a, b) => a.ttft_p50 - b.ttft_p50);
    const worst = Math.max(...top.map((row) => row.ttft_p99 ?? -1));
    const { overall } = this;
    overall.total.push(sum("rate"));
    overall.queued.push(sum("queued") + sum("waiting"));
    overall.running.push(sum("running"));
    overall.now.push(frame.difference?.now);
    overall.bound.push(this.bound);
    overall.p50.push(served[Math.floor(served.length / 2)]?.ttft_p50);
    overall.p99.push(worst < 0 ? null : worst);
  }

  /** What the largest difference must stay under, or null. */
  get bound() {
    const difference = this.frame?.difference;
    return difference?.at_most ?? difference?.bound ?? null;
  }

  /** The rows of a group's members; of null those that are in no group. */
  members(group) {
    return [...this.rows.values()].filter((row) =>
      group === null ? !this.rows.has(row.parent) : row.parent === group);
  }

  /** Part of its siblings' service that a client got lately; null while nobody is served. */
  lately(row) {
    const last = Math.max(1, Math.round(LATELY_S / this.hello.period_s));
    const all = this.overall.total.sum(last);
    return all > 0 ? (this.rates.get(row.client)?.sum(last) ?? 0) / all : null;
  }

  /** Whether a client waits and gets clearly less than it is entitled to. */
  behind(row) {
    return row.queued > 0 && row.entitlement && (this.lately(row) ?? 0) < 0.8 * row.entitlement;
  }
}
