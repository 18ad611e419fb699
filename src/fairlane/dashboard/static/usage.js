// What one tenant used by day and model, where the server keeps it; asked for when it is opened.

import { el, number, seconds, shown } from "./dom.js";
import { Small } from "./panels.js";
import { ask } from "./stream.js";

const COLUMNS = [
  ["Day", (one) => one.day],
  ["Model", (one) => shown(one.model)],
  ["Requests", (one) => number(one.requests)],
  ["Input", (one) => number(one.input_tokens)],
  ["Cached", (one) => number(one.cached_tokens)],
  ["Output", (one) => number(one.output_tokens)],
  ["Service", (one) => number(one.service)],
  ["Waited", (one) => seconds(one.requests ? one.wait_s / one.requests : null)],
  ["Refused", (one) => number(Object.values(one.refused).reduce((all, n) => all + n, 0))],
];

/** The part of the details that shows it; key: gives the key of whoever is signed in. */
export function usage(client, key) {
  const into = el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Usage" });
  const show = async () => {
    try {
      const query = new URLSearchParams({ by: "day,model", since: "30d", tenant: client });
      const { rows } = await ask(`usage?${query}`, key());
      const table = new Small(into, { "aria-label": "Usage by day and model" }, COLUMNS);
      table.draw(rows.reverse().map((row) => ({ name: `${row.day} ${row.model}`, ...row })));
    } catch (error) {
      into.replaceChildren(el("p", { class: "nothing" }, error.message));
    }
  };
  return el("details", { ontoggle: (event) => event.target.open && show() },
    el("summary", {}, "Usage of the last 30 days"), into);
}
