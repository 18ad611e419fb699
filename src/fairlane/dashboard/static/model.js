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

  /** Of what is known. */
  sum() {
    return this.points.reduce((sum, value) => sum + (value || 0), 0);
  }

  /** Of what is known; null where nothing is. */
  mean() {
    const known = this.points.filter((value) => value === value);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  }

  /** From the index `from` on, as charts take them: null where nothing is known. */
  list(from) {
    return Array.from(this.points.subarray(from), (value) => (value === value ? value : null));
  }
}

const OVERALL = ["total", "now", "observed", "bound", "queued", "running", "p50", "p99"];

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
    this.shares = new Map();
    this.waited = new Map(); // how many frames in a row a client had requests waiting
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
      const named = Object.fromEntries(this.columns.map((column, i) => [column, row[i]]));
      this.rows.set(named.client, named);
    }
    for (const client of frame.full ? this._missing(frame) : frame.gone) {
      for (const known of [this.rows, this.rates, this.shares, this.waited]) {
        known.delete(client);
      }
    }
    this._note(frame);
  }

  /** Those that a frame of everyone does not name. */
  _missing(frame) {
    const at = this.columns.indexOf("client");
    const named = new Set(frame.clients.map((row) => row[at]));
    return [...this.rows.keys()].filter((client) => !named.has(client));
  }

  _note(frame) {
    this.times.push(frame.t);
    for (const [client, row] of this.rows) {
      if (!this.rates.has(client)) this.rates.set(client, new Series(this.length));
      this.rates.get(client).push(row.rate);
      if (!this.shares.has(client)) {
        this.shares.set(client, new Series(Math.round(LATELY_S / this.hello.period_s)));
      }
      this.shares.get(client).push(row.share);
      this.waited.set(client, row.queued > 0 ? (this.waited.get(client) ?? 0) + 1 : 0);
    }
    const top = this.members(null);
    const sum = (column) => top.reduce((all, row) => all + (row[column] ?? 0), 0);
    const served = top.filter((row) => row.ttft_p50 !== null);
    served.sort((a, b) => a.ttft_p50 - b.ttft_p50);
    const worst = Math.max(...top.map((row) => row.ttft_p99 ?? -1));
    const { overall } = this;
    overall.total.push(sum("rate"));
    overall.queued.push(sum("queued"));
    overall.running.push(sum("running"));
    const { now, observed, bound, at_most: most } = frame.difference;
    overall.now.push(now);
    overall.observed.push(observed);
    overall.bound.push(bound ?? most); // what is guaranteed, else what the audit proves so far
    overall.p50.push(served[Math.floor(served.length / 2)]?.ttft_p50);
    overall.p99.push(worst < 0 ? null : worst);
  }

  /** From which point on any of these is known, and how many seconds a chart of them spans: what
   *  is known, a minute at least, the whole past at most. */
  reach(...names) {
    const series = names.map((name) => this.overall[name].points);
    const from = this.times.points.findIndex((at, i) =>
      at === at && series.some((points) => points[i] === points[i]));
    const first = from < 0 ? this.length - 1 : from;
    return { from: first, span: this.clamp(this.times.points.at(-1) - this.times.points[first]) };
  }

  /** Seconds that a chart spans where so many are known. */
  clamp(known) {
    return Math.min(this.length * this.hello.period_s, Math.max(60, known));
  }

  /** The rows of a group's members; of null those that are in no group. */
  members(group) {
    return [...this.rows.values()].filter((row) =>
      group === null ? !this.rows.has(row.parent) : row.parent === group);
  }

  /** Rows of clients, without those of groups. */
  get leaves() {
    const groups = new Set(Array.from(this.rows.values(), (row) => row.parent));
    return [...this.rows.values()].filter((row) => !groups.has(row.client));
  }

  /** Part of all service that a client got lately; null while nobody is served. */
  lately(row) {
    return this.shares.get(row.client)?.mean() ?? null;
  }

  /** Whether a client waited all the while and got clearly less than it is entitled to. */
  behind(row) {
    const all = this.waited.get(row.client) * this.hello.period_s >= LATELY_S;
    return all && row.entitlement && (this.lately(row) ?? 0) < 0.8 * row.entitlement;
  }
}
