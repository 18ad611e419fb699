// The form by which an operator changes one tenant: its weight, its limits, its keys.

import { el, shown, write } from "./dom.js";
import { ask } from "./stream.js";

const FIELDS = [
  ["requests_per_minute", "Requests a minute"],
  ["tokens_per_minute", "Tokens a minute"],
  ["max_queued", "Queued at most"],
  ["max_running", "Running at most"],
  ["max_wait_s", "Seconds of waiting at most"],
];

export class Changes {
  /** row: what is known of the client; key: gives the key of whoever is signed in. */
  constructor(client, row, key) {
    this.client = client;
    this.key = key;
    this.told = el("p", { class: "note", role: "status" });
    this.inputs = new Map();
    this.written = new Map();
    const fields = [
      this._field("weight", "Weight", row?.weight, "any"),
      ...FIELDS.map(([name, label]) => this._field(name, label, row?.limits?.[name],
        name === "max_wait_s" ? "any" : "1")),
    ];
    this.keys = el("ul", { class: "keys" });
    this.fresh = el("div", { class: "fresh", role: "status" });
    this.element = el("section", { class: "changes", "aria-label": "Changes" },
      el("h3", {}, "Weight and limits"),
      el("form", { novalidate: true, onsubmit: (event) => {
        event.preventDefault();
        this._set();
      } }, el("div", { class: "fields" }, ...fields),
      el("button", { type: "submit", class: "first" }, "Save")),
      this.told,
      el("details", { ontoggle: (event) => event.target.open && this._list() },
        el("summary", {}, "API keys"),
        this.keys,
        el("button", { type: "button", onclick: () => this._add() }, "New key"),
        this.fresh));
  }

  _field(name, label, value, step) {
    const id = `change-${name}`;
    const text = value === null || value === undefined ? "" : String(value);
    const input = el("input", { id, type: "number", min: "0", step, value: text,
      placeholder: name === "weight" ? "" : "no limit" });
    this.inputs.set(name, input);
    this.written.set(name, text);
    return el("div", {}, el("label", { for: id }, label), input);
  }

  async _change(change, done) {
    try {
      const answer = await ask("changes", this.key(), { ...change, client: this.client });
      write(this.told, done);
      this.told.classList.remove("error");
      return answer;
    } catch (error) {
      write(this.told, error.message);
      this.told.classList.add("error");
      return null;
    }
  }

  async _set() {
    const value = (name) => {
      const { value: text, validity } = this.inputs.get(name);
      return validity.badInput ? NaN : text === "" ? null : Number(text);
    };
    const changed = (name) => this.inputs.get(name).value !== this.written.get(name)
      || this.inputs.get(name).validity.badInput;
    const wrong = [...this.inputs.keys()].find((name) => Number.isNaN(value(name)));
    if (wrong || value("weight") === null) {
      write(this.told, "Not saved: the weight must be a number, a limit a number or nothing.");
      this.told.classList.add("error");
      return;
    }
    const limits = FIELDS.map(([name]) => name).filter(changed);
    const change = {
      do: "set",
      ...(changed("weight") ? { weight: value("weight") } : {}),
      ...(limits.length
        ? { limits: Object.fromEntries(limits.map((name) => [name, value(name)])) } : {}),
    };
    if (Object.keys(change).length === 1) {
      write(this.told, "Nothing is changed.");
      return;
    }
    if (await this._change(change, "Saved.")) {
      for (const [name, input] of this.inputs) this.written.set(name, input.value);
    }
  }

  async _list() {
    try {
      const { keys } = await ask(`keys?client=${encodeURIComponent(this.client)}`, this.key());
      this.keys.replaceChildren(...keys.map((one) => this._known(one)));
      if (!keys.length) this.keys.replaceChildren(el("li", { class: "nothing" }, "It has none."));
    } catch (error) {
      this.keys.replaceChildren(el("li", { class: "error" }, error.message));
    }
  }

  _known(one) {
    const revoke = el("button", { type: "button", onclick: async () => {
      if (revoke.dataset.sure === undefined) { // twice: it cannot be undone
        revoke.dataset.sure = "";
        write(revoke, "Revoke it now");
        return;
      }
      const change = { do: "revoke_key", key_id: one.id };
      if (await this._change(change, "The key is revoked.")) this._list();
    } }, "Revoke");
    const added = one.added ? el("span", { class: "note" }, `added ${shown(one.added)}`) : "";
    return el("li", {}, el("code", {}, shown(one.id)), added, revoke);
  }

  async _add() {
    const made = await this._change({ do: "add_key" }, "A key is added.");
    if (!made) return;
    const text = el("input", {
      id: "new-key", readonly: true, value: made.key, spellcheck: "false" });
    const copy = el("button", { type: "button", onclick: async () => {
      text.select();
      try {
        await navigator.clipboard.writeText(made.key);
        write(copy, "Copied");
      } catch { // no clipboard without https: it is selected
        write(copy, "Selected: copy it");
      }
    } }, "Copy");
    this.fresh.replaceChildren(
      el("label", { for: "new-key" }, "The new key. It is shown this once."),
      el("div", {}, text, copy));
    text.select();
    this._list();
  }
}
