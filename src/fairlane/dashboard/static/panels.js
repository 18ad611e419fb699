// What is beside the charts: numbers of now, who waits, what was refused, upstreams, replicas.

import { bar, by, count, el, named, number, percent, seconds, write } from "./dom.js";

const MOST = 6; // lines of a short list

/** Elements by name that are kept while their list is. */
class Kept {
  constructor(container, make) {
    this.container = container;
    this.make = make;
    this.made = new Map();
  }

  /** things: [name, value] each, in order. */
  draw(things, nothing) {
    const elements = things.map(([name, value]) => {
      if (!this.made.has(name)) this.made.set(name, this.make(name));
      const { element, set } = this.made.get(name);
      set(value);
      return element;
    });
    const names = new Set(things.map(([name]) => name));
    for (const name of this.made.keys()) if (!names.has(name)) this.made.delete(name);
    if (!elements.length && nothing) {
      elements.push(this.empty ??= el("p", { class: "nothing" }, nothing));
    }
    const there = this.container.children;
    if (elements.length !== there.length || elements.some((one, i) => there[i] !== one)) {
      this.container.replaceChildren(...elements);
    }
  }
}

function tile(label) {
  const value = el("dd");
  const note = el("dd", { class: "note" });
  return {
    element: el("div", {}, el("dt", {}, label), value, note),
    set([text, beside]) {
      write(value, text);
      write(note, beside);
    },
  };
}

function barred(name) {
  const gauge = bar("");
  const value = el("b");
  return {
    element: el("div", { class: "barred" }, named(name), gauge.element, value),
    set([part, text]) {
      gauge.set(part, null, text);
      write(value, text);
    },
  };
}

/** A table of things that have a name: columns are [label, how it is written]. */
export class Small {
  /** name: the attributes that name it. */
  constructor(container, name, columns) {
    this.body = el("tbody");
    const heads = columns.map(([head]) => el("th", { scope: "col" }, head));
    container.replaceChildren(el("table", name,
      el("thead", {}, el("tr", {}, ...heads)), this.body));
    this.kept = new Kept(this.body, () => {
      const cells = columns.map((_, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }));
      return {
        element: el("tr", {}, ...cells),
        set: (thing) => columns.forEach(([, written], i) => {
          const content = written(thing);
          if (typeof content === "string") write(cells[i], content);
          else cells[i].replaceChildren(content);
        }),
      };
    });
  }

  draw(things) {
    this.kept.draw(things.map((thing) => [thing.name, thing]));
  }
}

function gauged(part, text) {
  const gauge = bar("");
  gauge.set(part, null, text);
  return el("span", { class: "gauged" }, gauge.element, el("span", {}, text));
}

const UPSTREAM = [
  ["Upstream", (one) => named(one.name)],
  ["Model", (one) => named(one.model ?? "")],
  ["State", (one) => el("span", { class: one.up ? "good" : "bad" }, one.up ? "up" : "down")],
  ["Window", (one) => gauged(one.running / one.window,
    `${number(one.running)} of ${number(Math.floor(one.window))}`)],
  ["Engine runs", (one) => number(one.engine_running)],
  ["Engine queue", (one) => number(one.engine_waiting)],
  ["KV memory", (one) => gauged(one.kv_usage, percent(one.kv_usage))],
];

const REPLICA = [
  ["Replica", (one) => named(one.name)],
  ["Service/s", (one) => number(one.rate)],
  ["Queued", (one) => number(one.queued)],
];

const titled = (id) => ({ "aria-labelledby": `${id}-title` });

/** All of them. */
export class Panels {
  constructor() {
    this.tiles = new Kept(by("tiles"), tile);
    this.waiters = new Kept(by("waiters"), barred);
    this.refused = new Kept(by("refused"), barred);
    this.upstreams = new Small(by("upstreams"), titled("upstreams"), UPSTREAM);
    this.cluster = new Small(by("cluster"), titled("cluster"), REPLICA);
  }

  draw(model) {
    const rows = model.members(null);
    this._tiles(model, rows);
    this._waiters(model);
    this._refused(rows);
    this._others(model.frame);
  }

  _tiles(model, rows) {
    const { overall } = model;
    const at = (name) => overall[name].points.at(-1);
    const served = rows.filter((row) => row.running > 0).length;
    const waiting = rows.filter((row) => row.queued > 0);
    const sum = (column) => rows.reduce((all, row) => all + (row[column] ?? 0), 0);
    const oldest = Math.max(...rows.map((row) => row.oldest_s ?? -1));
    this.tiles.draw([
      ["Service a second", [number(at("total")),
        `${number(sum("input_rate"))} in, ${number(sum("output_rate"))} out tok/s`]],
      ["Tenants served", [number(served), `of ${number(rows.length)} seen`]],
      ["Requests running", [number(at("running")), `${number(sum("requests"))} came so far`]],
      ["Requests waiting", [number(at("queued")), `of ${count(waiting.length, "tenant")}`]],
      ["Longest wait now", [oldest < 0 ? "none" : seconds(oldest), "oldest request in a queue"]],
      ["First token, p99", [seconds(at("p99")), "of the slowest tenant"]],
    ]);
  }

  _waiters(model) {
    const leaves = model.leaves.filter((row) => row.oldest_s !== null);
    leaves.sort((a, b) => b.oldest_s - a.oldest_s || (a.client < b.client ? -1 : 1));
    const longest = leaves[0]?.oldest_s || 1;
    this.waiters.draw(leaves.slice(0, MOST).map((row) =>
      [row.client, [row.oldest_s / longest, seconds(row.oldest_s)]]), "Nobody waits.");
  }

  _refused(rows) {
    const sums = new Map();
    for (const row of rows) {
      for (const [reason, n] of Object.entries(row.rejected ?? {})) {
        sums.set(reason, (sums.get(reason) ?? 0) + n);
      }
    }
    const found = [...sums].filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
    const most = found[0]?.[1] ?? 1;
    this.refused.draw(found.map(([reason, n]) =>
      [reason.replaceAll("_", " "), [n / most, number(n)]]), "None so far.");
  }

  _others({ upstreams, cluster }) {
    by("upstreams-card").hidden = !upstreams?.length;
    const told = upstreams?.some((one) => one.kv_usage !== null);
    by("upstreams").classList.toggle("no-memory", !told); // not every engine tells
    if (upstreams?.length) this.upstreams.draw(upstreams);
    by("cluster-card").hidden = !cluster;
    if (!cluster) return;
    const age = seconds(cluster.exchange_age_seconds);
    write(by("cluster-note"), cluster.connected
      ? `${count(cluster.members, "server")}, told each other ${age} ago`
      : "not connected: each server is fair by itself");
    const servers = Object.entries(cluster.servers ?? {});
    this.cluster.draw(servers.map(([name, one]) => ({ name, ...one })));
  }
}
