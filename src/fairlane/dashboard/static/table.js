// The table of tenants: sorts, searches, opens groups. Only the rows of one page are in the
// document, and they stand still while the pointer or the keyboard is among them.

import { bar, by, count, el, named, number, percent, rate, seconds, shown, write } from "./dom.js";

const ROWS = 20;
const REORDER_S = 5; // those who are served alike would change places every second

const refused = (row) => Object.values(row.rejected ?? {}).reduce((all, n) => all + n, 0);

// Each: its words, what is sorted by, how it is written. `up`: sorted upwards at first.
const COLUMNS = [
  { id: "client", label: "Tenant", by: (row) => row.client, up: true },
  { id: "weight", label: "Weight", by: (row) => row.weight, write: number },
  { id: "share", label: "Share and entitlement", by: (row, model) => model.lately(row) },
  { id: "rate", label: "Service/s", by: (row) => row.rate, write: rate },
  { id: "running", label: "Running", by: (row) => row.running, write: number },
  { id: "waits", label: "Waiting", by: (row) => row.queued, write: number },
  { id: "oldest", label: "For", title: "How long its oldest request has waited",
    by: (row) => row.oldest_s, write: seconds },
  { id: "p50", label: "TTFT p50", title: "Time to first token: half wait longer",
    by: (row) => row.ttft_p50, write: seconds },
  { id: "p99", label: "TTFT p99", title: "Time to first token: one in a hundred waits longer",
    by: (row) => row.ttft_p99, write: seconds },
  { id: "input", label: "In tok/s", by: (row) => row.input_rate, write: rate },
  { id: "output", label: "Out tok/s", by: (row) => row.output_rate, write: rate },
  { id: "requests", label: "Requests", by: (row) => row.requests, write: number },
  { id: "refused", label: "Refused", by: refused, write: number },
  { id: "service", label: "Service", title: "Service in all", by: (row) => row.service,
    write: number },
];

export class Table {
  /** open: called with the path of a tenant that is to be shown in detail. */
  constructor(open) {
    this.open = open;
    this.model = null;
    this.group = null;
    this.sorted = { column: COLUMNS.at(-1), up: false };
    this.page = 0;
    this.order = [];
    this.ordered = 0; // when, and of how many clients
    this.known = 0;
    this.held = false;
    this.rows = new Map();
    this.heads = COLUMNS.map((column) => this._head(column));
    this.body = el("tbody");
    const table = el("table", { class: "tenants", "aria-labelledby": "tenants-title" },
      el("thead", {}, el("tr", {}, ...this.heads)), this.body);
    by("tenants").replaceChildren(table);
    this.body.onpointerenter = () => { this.held = true; };
    this.body.onpointerleave = () => { this.held = false; };
    by("search").oninput = () => this._again();
    by("previous").onclick = () => this._turn(-1);
    by("next").onclick = () => this._turn(1);
  }

  /** The stream begins, or began anew: go on with its model. */
  reset(model) {
    this.model = model;
    this.ordered = 0;
  }

  /** Show the members of a group; null: all that are in none. */
  enter(group) {
    this.group = group;
    by("search").value = "";
    this._crumbs();
    this._again();
    by("tenants-title").focus();
  }

  draw() {
    const now = this.model.frame.t;
    const still = this.held || this.body.contains(document.activeElement);
    const due = now - this.ordered >= REORDER_S || this.known !== this.model.rows.size;
    if (due && !still) this._sort();
    const pages = Math.max(1, Math.ceil(this.order.length / ROWS));
    this.page = Math.min(this.page, pages - 1);
    const paths = this.order.slice(this.page * ROWS, (this.page + 1) * ROWS)
      .filter((path) => this.model.rows.has(path));
    for (const [path, row] of this.rows) {
      if (!paths.includes(path)) {
        row.element.remove();
        this.rows.delete(path);
      }
    }
    const widest = Math.max(0, ...paths.flatMap((path) => {
      const row = this.model.rows.get(path);
      return [this.model.lately(row) ?? 0, row.entitlement ?? 0];
    }));
    paths.forEach((path, i) => {
      if (!this.rows.has(path)) this.rows.set(path, this._row(path));
      const row = this.rows.get(path);
      if (this.body.children[i] !== row.element) {
        this.body.insertBefore(row.element, this.body.children[i] ?? null);
      }
      row.draw(this.model.rows.get(path), 1.1 * widest || 1);
    });
    this._notes(paths.length, pages);
  }

  _notes(drawn, pages) {
    const all = this.order.length;
    const first = this.page * ROWS;
    const { role } = this.model.hello;
    write(by("tenants-note"), role === "client" ? "your own" : count(all, "tenant"));
    by("pages").hidden = pages === 1;
    write(by("page-note"), `${first + 1} to ${first + drawn} of ${number(all)}`);
    by("previous").disabled = this.page === 0;
    by("next").disabled = this.page >= pages - 1;
  }

  _again() {
    this.page = 0;
    this._sort();
    this.draw();
  }

  _turn(by_) {
    this.page += by_;
    this._sort();
    this.draw();
  }

  _sort() {
    const { model, sorted: { column, up } } = this;
    const words = by("search").value.trim().toLowerCase();
    const rows = words
      ? [...model.rows.values()].filter((row) => shown(row.client).toLowerCase().includes(words))
      : model.members(this.group);
    const valued = rows.map((row) => [column.by(row, model) ?? -1, row.client]);
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    valued.sort((a, b) => (up ? 1 : -1) * compare(a[0], b[0]) || compare(a[1], b[1]));
    this.order = valued.map(([, path]) => path);
    this.ordered = model.frame.t;
    this.known = model.rows.size;
  }

  _head(column) {
    const head = el("th", { scope: "col", class: column.id, title: column.title });
    head.append(el("button", { type: "button", onclick: () => {
      const again = this.sorted.column === column;
      this.sorted = { column, up: again ? !this.sorted.up : Boolean(column.up) };
      this._mark();
      this._again();
    } }, column.label));
    if (column === this.sorted.column) head.setAttribute("aria-sort", "descending");
    return head;
  }

  _mark() {
    this.heads.forEach((head, i) => {
      head.removeAttribute("aria-sort");
      if (COLUMNS[i] === this.sorted.column) {
        head.setAttribute("aria-sort", this.sorted.up ? "ascending" : "descending");
      }
    });
  }

  _row(path) {
    const members = this.model.members(path).length;
    const note = el("span", { class: "late", hidden: true }, "behind");
    const first = el("th", { scope: "row", class: "client" },
      el("button", { type: "button", class: "open", onclick: () => this.open(path) }, named(path)),
      members ? el("button", { type: "button", class: "chip", onclick: () => this.enter(path) },
        count(members, "member")) : null,
      note);
    const gauge = bar("");
    const text = el("span", { class: "of" });
    const cells = COLUMNS.slice(1).map((column) => el("td", { class: column.id }));
    cells[1].append(gauge.element, text);
    const draw = (row, full) => { // full: the part at which a gauge is full
      const share = this.model.lately(row);
      const due = row.entitlement;
      const words = due === null
        ? percent(share) : `${percent(share)} of ${percent(due)}`;
      gauge.set(share / full, due === null ? null : due / full, words);
      write(text, words);
      note.hidden = !this.model.behind(row);
      COLUMNS.slice(1).forEach((column, i) => {
        if (column.write) write(cells[i], column.write(column.by(row, this.model)));
      });
    };
    return { element: el("tr", {}, first, ...cells), draw };
  }

  _crumbs() {
    const crumbs = by("crumbs");
    crumbs.hidden = this.group === null;
    if (this.group === null) return crumbs.replaceChildren();
    const above = [];
    for (let at = this.group; at; at = this.model.rows.get(at)?.parent) above.unshift(at);
    const link = (name, to) =>
      el("button", { type: "button", onclick: () => this.enter(to) }, name);
    return crumbs.replaceChildren(link("All tenants", null), ...above.flatMap((path) => [
      el("span", { "aria-hidden": "true" }, "/"),
      path === this.group ? named(path, { "aria-current": "true" }) : link(named(path), path),
    ]));
  }
}
