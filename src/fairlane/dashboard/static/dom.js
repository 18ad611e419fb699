// Makes elements, and the words and numbers in them. All text goes in as text, never as markup.

/** An element: `el("td", { class: "n" }, "text", child)`. Properties that are not attributes
 *  (onclick, value, textContent) are set as such; null, undefined and false leave one out. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on") || name === "value") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** The element of the page with this id. */
export const by = (id) => document.getElementById(id);

/** Change a text only where it differs: most do not from one second to the next. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A name as it may be shown: what would be invisible or turn the text around is spelled out. */
export const shown = (name) =>
  String(name).replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, (character) =>
    `\\u{${character.codePointAt(0).toString(16)}}`);

/** A name in an element of its own, so that it cannot turn around the text beside it. */
export function named(name, properties = {}) {
  const text = shown(name);
  return el("bdi", { class: "name", title: text, ...properties }, text);
}

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const few = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

/** 12,345 as it is, millions as 1.23M, small ones with three digits. */
export function number(value) {
  if (!known(value)) return NONE;
  if (Math.abs(value) >= 1e6) return short.format(value);
  return Math.abs(value) >= 100 ? whole.format(value) : few.format(value);
}

/** What changes every second: with one digit after the point, so that it keeps its width. */
export const rate = (value) =>
  known(value) && value > 0 && value < 100 ? value.toFixed(1) : number(value);

/** A part of the whole: 12.3%, small ones 0.12%. */
export function percent(part) {
  if (!known(part)) return NONE;
  const digits = part >= 0.9995 ? 0 : part > 0 && part < 0.01 ? 2 : 1;
  return `${(100 * part).toFixed(digits)}%`;
}

/** 850 ms, 3.2 s, 4 min 10 s. */
export function seconds(value) {
  if (!known(value)) return NONE;
  if (value === 0) return "0 s";
  if (value < 1) return `${Math.round(1000 * value)} ms`;
  if (value < 100) return `${value.toFixed(1)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** "3 tenants", "1 tenant". */
export const count = (n, what) => `${whole.format(n)} ${what}${n === 1 ? "" : "s"}`;

/** A bar of which a part is filled, with a mark where that part should be. */
export function bar(label) {
  const fill = el("span", { class: "fill" });
  const mark = el("span", { class: "mark", hidden: true });
  const made = el("span", { class: "gauge", role: "img", "aria-label": label }, fill, mark);
  return {
    element: made,
    set(part, due, text) {
      fill.style.width = `${100 * Math.min(1, Math.max(0, part || 0))}%`;
      mark.hidden = !known(due);
      if (known(due)) mark.style.left = `${100 * Math.min(1, due)}%`;
      made.setAttribute("aria-label", text);
    },
  };
}
