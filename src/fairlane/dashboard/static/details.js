// One tenant: its last minutes, what it may do, and where changes are on, the form for that.

import { Chart, Legend } from "./charts.js";
import { Changes } from "./changes.js";
import { by, count, el, named, number, percent, seconds, shown, write } from "./dom.js";
import { ask } from "./stream.js";
import { usage } from "./usage.js";

const CHARTS = [
  { title: "Service a second", columns: ["rate"], options: {
    series: [{ label: "service a second", colour: "--c0", fill: true }] } },
  { title: "Requests", columns: ["queued", "running"], options: {
    series: [{ label: "waiting", colour: "--wait" }, { label: "running", colour: "--run" }],
    highest: 4 } },
  { title: "Time to first token", columns: ["ttft_p50", "ttft_p99"], options: {
    series: [{ label: "p50", colour: "--p50" }, { label: "p99", colour: "--p99" }],
    format: seconds, highest: 0.1 } },
];
const LIMITS = {
  requests_per_minute: "requests a minute",
  tokens_per_minute: "tokens a minute",
  max_queued: "in its queue at most",
  max_running: "running at most",
  max_wait_s: "seconds of waiting at most",
};

export class Details {
  /** key: gives the key of whoever is signed in. enter: shows a group's members. */
  constructor(key, enter) {
    this.key = key;
    this.enter = enter;
    this.dialog = by("details");
    this.client = null;
    this.dialog.onclose = () => this._forget();
    this.dialog.onclick = (event) => {
      if (event.target === this.dialog) this.dialog.close(); // beside it
    };
  }

  /** Show one tenant of a model. */
  async open(model, client) {
    this.model = model;
    this.client = client;
    this._build();
    this.dialog.showModal();
    this._charts();
    this.draw();
    try {
      const told = await ask(`history?client=${encodeURIComponent(client)}`, this.key());
      if (this.client === client) this._past(told);
    } catch (error) {
      write(this.problem, error.message);
    }
    if (this.client === client) this.draw();
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  /** The stream began anew: go on with its model. */
  reset(model) {
    this.model = model;
  }

  _forget() {
    this.client = null;
    this.charts = [];
    this.dialog.replaceChildren();
  }

  _build() {
    const members = this.model.members(this.client).length;
    const title = el("h2", { id: "details-title" }, named(this.client));
    const close = el("button", { type: "button", onclick: () => this.dialog.close() }, "Close");
    this.problem = el("p", { class: "error", role: "alert" });
    this.facts = el("dl", { class: "tiles small" });
    this.about = new Map();
    this.changes = this.model.hello.changes && this.model.hello.role === "operator"
      ? new Changes(this.client, this.model.rows.get(this.client), this.key) : null;
    this.dialog.replaceChildren(
      el("div", { class: "head" }, title, close),
      this.problem,
      members ? el("p", {}, el("button", { type: "button", onclick: () => {
        const group = this.client;
        this.dialog.close();
        this.enter(group);
      } }, `Show its ${count(members, "member")}`)) : "",
      this.facts,
      ...CHARTS.flatMap(({ title: name }, i) => [
        el("h3", {}, name), el("div", { class: "plot low", id: `detail-${i}` }),
        el("ul", { class: "legend", id: `detail-${i}-legend` })]),
      usage(this.client, this.key),
      this.changes?.element ?? "",
    );
  }

  _charts() {
    this.past = { t: [] };
    for (const { columns } of CHARTS) for (const column of columns) this.past[column] = [];
    this.charts = CHARTS.map(({ options }, i) => [
      new Chart(by(`detail-${i}`), options), new Legend(by(`detail-${i}-legend`), options.format)]);
  }

  _past(told) {
    const since = this.past.t[0] ?? Infinity; // frames may have come while it was asked for
    const before = told.t.filter((at) => at < since).length;
    for (const [name, values] of Object.entries(this.past)) {
      values.unshift(...(told[name] ?? []).slice(0, before));
    }
  }

  /** A frame came. */
  note() {
    const row = this.client === null ? null : this.model.rows.get(this.client);
    if (!row) return;
    this.past.t.push(this.model.frame.t);
    for (const [name, values] of Object.entries(this.past)) {
      if (name !== "t") values.push(row[name] ?? null);
      if (values.length > this.model.length) values.shift();
    }
  }

  draw() {
    const row = this.client === null ? null : this.model.rows.get(this.client);
    if (!row) return;
    this._facts(row);
    const span = this.model.clamp(this.past.t.at(-1) - this.past.t[0] || 0);
    CHARTS.forEach(({ title, columns, options }, i) => {
      const [chart, legend] = this.charts[i];
      const values = columns.map((column) => this.past[column]);
      const now = values.map((points) => points.at(-1) ?? null);
      const format = options.format ?? number;
      const told = options.series.map((one, j) => `${one.label} ${format(now[j])}`);
      const summary = `${title} of ${shown(this.client)}: now ${told.join(", ")}`;
      chart.set(this.past.t, values, span, summary);
      legend.set(options.series.map((one, j) => ({ ...one, value: now[j] })));
    });
  }

  _facts(row) {
    const listed = (things, write_) =>
      Object.entries(things).filter(([, n]) => n).map(write_).join(", ") || "none";
    const limit = ([name, most]) => `${number(most)} ${LIMITS[name] ?? name.replaceAll("_", " ")}`;
    const reason = ([name, n]) => `${number(n)} ${name.replaceAll("_", " ")}`;
    const facts = [
      ["Weight", number(row.weight)],
      ["Share and entitlement",
        `${percent(this.model.lately(row))} of ${percent(row.entitlement)}`],
      ["Service in all", number(row.service)],
      ["Requests", number(row.requests)],
      ["Waiting", `${number(row.queued)}, oldest ${seconds(row.oldest_s)}`],
      ["First token", `${seconds(row.ttft_p50)} p50, ${seconds(row.ttft_p99)} p99`],
      ["Limits", listed(row.limits, limit)],
      ["Refused", listed(row.rejected, reason)],
    ];
    for (const [name, text] of facts) {
      if (!this.about.has(name)) {
        const value = el("dd");
        this.about.set(name, value);
        this.facts.append(el("div", {}, el("dt", {}, name), value));
      }
      write(this.about.get(name), text);
    }
  }

  /** Take up the colours of another theme. */
  redraw() {
    for (const [chart, legend] of this.charts ?? []) {
      chart.redraw();
      legend.redraw();
    }
    this.draw();
  }
}
