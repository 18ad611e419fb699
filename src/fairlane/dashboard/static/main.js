// The page: signs in, follows the stream, draws what came.

import { chartWithLegend, isDark } from "./charts.js";
import { Details } from "./details.js";
import { by, el, named, number, seconds, shown, write } from "./dom.js";
import { Model } from "./model.js";
import { Panels } from "./panels.js";
import { follow } from "./stream.js";
import { Table } from "./table.js";
import { ServiceChart } from "./service.js";

const KEY = "fairlane-key"; // in sessionStorage: gone with the tab
const THEME = "fairlane-theme";
const WHY = "fairlane-signed-out"; // why, if the server did it

let stop = () => {};
let model = null;
let paused = false;
const key = () => sessionStorage.getItem(KEY);

const table = new Table((client) => details.open(model, client));
const details = new Details(key, (group) => table.enter(group));
const panels = new Panels();
let charts = null;

const LINES = {
  difference: {
    series: [
      { label: "now", colour: "--c0", fill: true, name: "now" },
      { label: "largest so far", colour: "--c2", name: "observed" },
      { label: "must stay under", colour: "--limit", dash: [6, 4], name: "bound" },
    ],
  },
  load: {
    series: [
      { label: "waiting", colour: "--wait", name: "queued", fill: true },
      { label: "running", colour: "--run", name: "running" },
    ],
    highest: 4,
  },
  ttft: {
    series: [
      { label: "p50, typical tenant", colour: "--p50", name: "p50" },
      { label: "p99, slowest tenant", colour: "--p99", name: "p99" },
    ],
    format: seconds,
    highest: 0.1,
  },
};

/** The charts need the board to be visible, to have a size. */
function makeCharts() {
  charts = {
    service: new ServiceChart((client) => details.open(model, client)),
    ...Object.fromEntries(Object.entries(LINES).map(([id, options]) =>
      [id, chartWithLegend(id, options)])),
  };
}

function drawLines(id) {
  const [chart, legend] = charts[id];
  const { series, format = number } = LINES[id];
  const { from, span } = model.reach(...series.map(({ name }) => name));
  const values = series.map(({ name }) => model.overall[name].list(from));
  const now = values.map((one) => one.at(-1) ?? null);
  const told = series.map(({ label }, i) => `${label} ${format(now[i])}`).join(", ");
  const title = by(`${id}-title`).textContent;
  chart.set(model.times.list(from), values, span, `${title}: ${told}`);
  legend.set(series.map((one, i) => ({ ...one, value: now[i] })));
}

function drawVerdict() {
  const { now, observed, bound, at_most: most } = model.frame.difference;
  by("difference-card").hidden = now === null && observed === null;
  const verdict = by("verdict");
  const within = bound === null ? null : observed <= bound;
  verdict.className = `verdict ${within === null ? "" : within ? "good" : "bad"}`;
  write(verdict, within === null ? `no guarantee is known here; it was never above ${number(most)}`
    : `${number(observed)} so far, ${within ? "within" : "over"} the bound of ${number(bound)}`);
  LINES.difference.series[2].label = within === null ? "never above" : "must stay under";
}

function drawFacts() {
  const { hello, frame } = model;
  const who = { operator: "operator", public: "public view", client: "your own view" }[hello.role];
  by("facts").replaceChildren(
    el("span", { class: "server" }, named(hello.server ?? hello.host)),
    el("span", { class: "chip" }, shown(frame.policy ?? "").toUpperCase()),
    el("span", { class: "chip" }, who ?? hello.role));
  by("problem").hidden = !frame.problem;
  write(by("problem"), frame.problem ? shown(frame.problem) : "");
}

function draw() {
  if (!model?.frame || document.hidden || paused) return;
  drawFacts();
  panels.draw(model);
  charts.service.draw(model, table.group);
  drawVerdict();
  for (const id of Object.keys(LINES)) drawLines(id);
  table.draw();
  details.draw();
}

function show(board) {
  by("board").hidden = !board;
  by("sign-in").hidden = board;
  by("pause").hidden = !board;
  by("sign-out").hidden = !board;
  if (board && !charts) makeCharts();
}

function say(state, why) {
  by("link").dataset.state = state;
  write(by("link"), {
    connecting: "Connecting", live: "Live", lost: `${why || "Connection lost."} Trying again`,
  }[state]);
}

function start() {
  stop();
  stop = follow("live", key(), {
    hello(told) {
      model = new Model(told);
      show(true);
      write(by("sign-out"), key() ? "Sign out" : "Sign in");
      document.body.dataset.role = told.role;
      table.reset(model);
      details.reset(model);
    },
    frame(told) {
      model.take(told);
      details.note();
      draw();
    },
    state: say,
    refused: (error) => signOut(error.message),
  });
}

/** Forget the key, and all that was seen with it. */
function signOut(why = "") {
  stop();
  if (key() === null) {
    askForKey(); // what is public may stay
    return;
  }
  sessionStorage.removeItem(KEY);
  sessionStorage.setItem(WHY, why);
  if (model === null) askForKey();
  else location.reload();
}

function askForKey() {
  show(false);
  write(by("link"), "");
  write(by("sign-in-error"), sessionStorage.getItem(WHY) ?? "");
  sessionStorage.removeItem(WHY);
  by("key").focus();
}

by("sign-in-form").onsubmit = (event) => {
  event.preventDefault();
  write(by("sign-in-error"), "");
  sessionStorage.setItem(KEY, by("key").value.trim());
  by("key").value = "";
  start();
};
by("sign-out").onclick = () => signOut();

by("pause").onclick = () => {
  paused = !paused;
  write(by("pause"), paused ? "Go on" : "Pause");
  draw();
};

function dress(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  write(by("theme"), isDark() ? "Light" : "Dark");
  for (const [chart, legend] of Object.keys(LINES).map((id) => charts?.[id] ?? [])) {
    chart?.redraw();
    legend?.redraw();
  }
  charts?.service.redraw();
  details.redraw();
  draw();
}

by("theme").onclick = () => {
  const theme = isDark() ? "light" : "dark";
  sessionStorage.setItem(THEME, theme);
  dress(theme);
};
matchMedia("(prefers-color-scheme: dark)").onchange = () => dress();
document.onvisibilitychange = draw;

dress(sessionStorage.getItem(THEME));
start();
