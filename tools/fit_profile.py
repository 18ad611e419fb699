"""Fits the latency profile of a vLLM server to logs of its steps (those of tools/switching.py).

    python tools/fit_profile.py PROFILE.toml SUITE-MODE.steps.jsonl ... [--write]

A log holds one JSON object a step: when schedule() (s0 to s1) and update_from_output() (u0 to u1)
began and ended, in seconds of one clock, and what was in the batch. Printed is how far the model
is off, by kind of step; --write puts the numbers into PROFILE.toml.

The engine begins a step on the GPU some time after s1, and the answer is taken in at u0, or as
soon as the engine is free. So a step's time on the GPU is seen where the engine waited for it, and
the engine's own where it did not; which is which depends on the times that are sought, so
launching is found first, and prompts are fitted in rounds. Times only ever grow with what a step
has to do: non-negative least squares of increments between points, outliers weighing less.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

GRAPH_TOKENS = 512  # vLLM's largest CUDA graph
DECODE_POINTS = (1, 8, 16, 32, 48, 64, 96, 128, 160, 192, 256)
MIXED_POINTS = (1, 64, 128, 256, 384, 512)
LARGE_POINTS = (1024, 8192)
SMALL_TOKENS = 700  # a step's launch takes longer than its time on the GPU, mostly
SURE_TOKENS = 1500  # larger steps keep the GPU for longer than their launch, mostly
LEAST = 12  # steps that a point needs near it
ROUNDS = 8
NEAR_MS = 0.3  # the engine waited if the answer came so much after it was ready


COLUMNS = (
    "requests", "decodes", "tokens", "prefill", "context", "attention", "s0", "s1", "u0", "u1",
    "waits_from",
)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """Columns over the steps of all logs, in order of their answers; milliseconds.

    waits_from: when the engine had nothing else to do, launching aside; launches: the position of
    the step that it launched last before that, -1 for none. follows: of the same run as the one
    before.
    """

    requests: Floats
    decodes: Floats
    tokens: Floats
    prefill: Floats
    context: Floats
    attention: Floats
    s0: Floats
    s1: Floats
    u0: Floats
    u1: Floats
    waits_from: Floats
    launches: NDArray[np.int64]
    follows: Flags

    @property
    def kind(self) -> NDArray[np.int64]:
        """How a step is launched: as one CUDA graph, in pieces, kernel by kernel."""
        return np.where(self.tokens > GRAPH_TOKENS, 2, (self.prefill > 0).astype(int))


def read_logs(paths: Sequence[Path]) -> Steps:
    """All steps that had something to do and an answer."""
    columns: list[list[float]] = []
    launches: list[int] = []
    for path in paths:
        rows: dict[int, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.setdefault(row["step"], {}).update(row)
        done = [r for r in rows.values() if "u1" in r and (r["decode"] or r["prefill"])]
        done.sort(key=lambda row: float(row["u0"]))
        begins = np.array([row["s1"] for row in done])
        base = len(columns)
        for number, row in enumerate(done):
            last = int(np.searchsorted(begins, row["u0"])) - 1
            before = done[number - 1]["u1"] if number else 0.0
            columns.append([*_row(row), max(begins[last], before) * 1e3, number > 0])
            launches.append(base + last if begins[last] > before else -1)
    table = np.array(columns, dtype=float).T
    columns_of = dict(zip(COLUMNS, table[:-1], strict=True))
    return Steps(**columns_of, launches=np.array(launches), follows=table[-1] > 0)


def _row(row: dict[str, Any]) -> list[float]:
    chunks = row["prefill"]
    prefill = sum(tokens for _, tokens in chunks)
    attention = sum(tokens * (2 * before + tokens) for before, tokens in chunks)
    work = [row["decode"] + len(chunks), row["decode"], row["decode"] + prefill, prefill]
    times = [1e3 * row[name] for name in ("s0", "s1", "u0", "u1")]
    return [*work, row["ctx"], attention, *times]


# -- least squares ----------------------------------------------------------------------------


def non_negative(features: Floats, target: Floats) -> Floats:
    """Least squares with coefficients >= 0."""
    scale = np.maximum(np.abs(features).max(axis=0), 1e-12)
    return np.asarray(nnls(features / scale, target)[0] / scale)


def robust(features: Floats, target: Floats) -> Floats:
    """The same with relative errors, and less weight for what is far off (Huber)."""
    weight = 1 / np.maximum(target, 1.0)
    for _ in range(4):
        found = non_negative(features * weight[:, None], target * weight)
        relative = np.abs(features @ found - target) / np.maximum(target, 1.0)
        spread = 1.5 * 1.483 * float(np.median(relative)) + 1e-9
        weight = np.minimum(1.0, spread / np.maximum(relative, 1e-12)) ** 0.5
        weight = weight / np.maximum(target, 1.0)
    return found


def ramps(x: Floats, points: Sequence[float]) -> Floats:
    """One column of ones, and one per stretch between points that grows from 0 to 1 along it."""
    columns = [np.ones_like(x)]
    for low, high in pairwise(points):
        columns.append(np.clip((x - low) / (high - low), 0, 1 if high != points[-1] else np.inf))
    return np.stack(columns, axis=1)


def populated(x: Floats, points: Sequence[int]) -> list[int]:
    """The points that have steps near them, at least two."""
    kept = []
    for i, point in enumerate(points):
        low = points[i - 1] if i else 0
        high = points[i + 1] if i + 1 < len(points) else np.inf
        if ((x > (low + point) / 2) & (x <= (point + high) / 2)).sum() >= LEAST:
            kept.append(point)
    return kept if len(kept) > 1 else [points[0], points[-1]]


# -- the model --------------------------------------------------------------------------------


@dataclass
class Fit:
    """What was found; milliseconds."""

    decode: list[tuple[int, float]]
    mixed: list[tuple[int, float]]
    per_context: float
    begin: float  # from s1 until an idle GPU begins
    launch: Floats  # from s1 until all is launched: least and most, by kind of step
    schedule: Floats  # constant, per request
    update: Floats

    def gpu(self, steps: Steps) -> Floats:
        """Milliseconds on the GPU."""
        base = np.where(
            steps.prefill > 0,
            _lines(self.mixed, steps.tokens),
            _lines(self.decode, steps.decodes),
        )
        return base + self.per_context * steps.context


def _lines(points: list[tuple[int, float]], x: Floats) -> Floats:
    xs, ys = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    beyond = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]) * np.maximum(0, x - xs[-1])
    return np.asarray(np.interp(x, xs, ys) + beyond)


def fit(steps: Steps) -> Fit:
    """See the module."""
    per_request = np.stack([np.ones_like(steps.s0), steps.requests], axis=1)
    turns = _turns(steps)
    busy = np.isfinite(turns)
    decode, per_context = _fit_decode(steps)
    found = Fit(
        decode=decode,
        mixed=[(1, decode[0][1]), (8192, 40 * decode[0][1])],
        per_context=per_context,
        begin=0.0,
        launch=_launching(steps),
        schedule=robust(per_request, steps.s1 - steps.s0),
        update=robust(per_request[busy], turns[busy]),
    )
    found.begin = _begin(found, steps)
    large = _fit_large(found, steps)
    for _ in range(ROUNDS):
        _fit_mixed(found, steps, large)
    return found


def between_decodes(steps: Steps) -> tuple[Floats, Flags]:
    """Milliseconds since the answer before, and where that is the time of a decode on the GPU.

    Decodes between decodes keep the GPU busy, so that one answer follows the other.
    """
    turns = np.diff(steps.u0, prepend=np.nan)
    last = steps.launches
    between = (steps.kind == 0) & steps.follows & (last >= 0) & (steps.kind[last] == 0)
    between[1:] &= steps.kind[:-1] == 0
    between &= (turns > 1) & (turns < 200)
    return turns, between


def _fit_decode(steps: Steps) -> tuple[list[tuple[int, float]], float]:
    turn, between = between_decodes(steps)
    points = populated(steps.decodes[between], DECODE_POINTS)
    features = np.column_stack([ramps(steps.decodes, points), steps.context])
    values = robust(features[between], turn[between])
    return list(zip(points, np.cumsum(values[:-1]).tolist(), strict=True)), float(values[-1])


def _launching(steps: Steps) -> Floats:
    """Milliseconds from s1 until all is launched: rows of least and most, by kind of step.

    The engine cannot take in an answer before it has launched the step after: of answers that
    were ready before, that is the time from s1 to u0. Those to decodes mostly were when a slow
    launch followed; and those to steps that were launched slowly themselves, but are small.
    """
    last = steps.launches
    after = np.where(last >= 0, steps.u0 - steps.s1[last], np.nan)
    small = (steps.kind == 2) & (steps.tokens < SMALL_TOKENS) & (steps.kind[last] == 0)
    graph = float(np.nanquantile(after[small], 0.2))
    rows = [[graph, graph]]
    for kind in (1, 2):
        some = after[(steps.prefill == 0) & (steps.kind[last] == kind) & (last >= 0)]
        most = float(np.quantile(some, 0.95)) if len(some) >= LEAST else rows[-1][1]
        rows.append([2 * float(some.mean()) - most if len(some) >= LEAST else rows[-1][0], most])
    return np.array(rows)


def _begin(found: Fit, steps: Steps) -> float:
    """Milliseconds from s1 until an idle GPU begins with a decode, after a small eager step."""
    before = np.maximum(np.arange(len(steps.s0)) - 1, 0)
    small = (steps.kind[before] == 2) & (steps.tokens[before] < SMALL_TOKENS)
    at_once = steps.u0[before] - steps.s1 < 1.3 * found.launch[0, 0]
    idle = small & at_once & (steps.kind == 0) & steps.follows
    return max(0.0, float(np.quantile((steps.u0 - steps.s1 - found.gpu(steps))[idle], 0.25)))


def _turns(steps: Steps) -> Floats:
    """Milliseconds from an answer to the next schedule(), where there is one soon."""
    order = np.sort(steps.s0)
    after = np.searchsorted(order, steps.u0)
    turn = np.where(after < len(order), order[np.minimum(after, len(order) - 1)] - steps.u0, np.inf)
    turn[(turn > 20) | (turn <= 0)] = np.inf
    return np.asarray(turn)


def engine_free(steps: Steps, launch: Floats) -> Floats:
    """When the engine had launched all that it did before an answer, by milliseconds of a kind."""
    last = steps.launches
    launched = steps.s1[last] + launch[steps.kind[last]]
    return np.where(last >= 0, np.maximum(launched, steps.waits_from), steps.waits_from)


def times(found: Fit, steps: Steps) -> tuple[Floats, Floats, Flags]:
    """When each step began and ended on the GPU, and whether that is when the engine saw it."""
    gpu = found.gpu(steps)
    begin = steps.s1 + found.begin
    launched = steps.s1 + found.launch.mean(axis=1)[steps.kind]
    waited = steps.u0 > engine_free(steps, found.launch[:, 1]) + NEAR_MS
    end = np.full(len(gpu), -np.inf)
    for _ in range(3):  # an end depends on the one before
        start = np.maximum(end, begin)
        ready = np.maximum(start + gpu, launched)
        seen = np.where(waited, steps.u0, np.minimum(ready, steps.u0))
        end[1:] = np.where(steps.follows[1:], seen[:-1], -np.inf)
    return start, ready, waited


def _fit_large(found: Fit, steps: Steps) -> list[tuple[int, float]]:
    """Large steps, where time grows with tokens alone; from those that the engine waited for."""
    start, _, waited = times(found, steps)
    seconds = steps.u0 - start - found.per_context * steps.context
    good = waited & (steps.tokens > SURE_TOKENS) & (seconds < 2000)
    if good.sum() < LEAST:
        return found.mixed[1:]
    per_token = float(np.median(seconds[good] / steps.tokens[good]))
    return [(tokens, per_token * tokens) for tokens in LARGE_POINTS]


def _fit_mixed(found: Fit, steps: Steps, large: list[tuple[int, float]]) -> None:
    """Graphs with prompts that the engine waited for, or should have, by what was found so far."""
    start, ready, waited = times(found, steps)
    seconds = steps.u0 - start - found.per_context * steps.context
    # of those that it waited for alone, the slow ones would be chosen
    launched = steps.s1 + found.launch[steps.kind, 1]
    waited &= steps.u0 > launched
    expected = ready > engine_free(steps, found.launch[:, 1]) + NEAR_MS
    expected &= start + found.gpu(steps) > launched
    good = (waited | expected) & (steps.kind == 1) & (seconds > 1) & (seconds < 2000)
    points = populated(steps.tokens[good], MIXED_POINTS)
    values = robust(ramps(steps.tokens[good], points), seconds[good])
    found.mixed = [*zip(points, np.cumsum(values).tolist(), strict=True), *large]


# -- what comes out ---------------------------------------------------------------------------


def report(found: Fit, steps: Steps) -> str:
    """How far predicted answers are off, by kind of step."""
    _, ready, _ = times(found, steps)
    engine = engine_free(steps, found.launch.mean(axis=1))
    predicted, turn = np.maximum(ready, engine), np.empty_like(ready)
    turn[0], turn[1:] = np.nan, np.diff(steps.u0)
    error = predicted - steps.u0
    kinds = {
        "decode, up to 32": (steps.prefill == 0) & (steps.decodes <= 32),
        "decode, up to 128": (steps.prefill == 0) & (steps.decodes > 32) & (steps.decodes <= 128),
        "decode, more": (steps.prefill == 0) & (steps.decodes > 128),
        "with prompts, graphs": steps.kind == 1,
        "with prompts, up to 2048": (steps.kind == 2) & (steps.tokens <= 2048),
        "with prompts, more": steps.tokens > 2048,
    }
    lines = ["kind of step               steps   of time   ms (median)   off by: mean   median |.|"]
    for name, kind in kinds.items():
        some = kind & steps.follows & (turn < 2000)
        if not some.any():
            continue
        part = turn[some].sum() / turn[steps.follows & (turn < 2000)].sum()
        mean, middle = error[some].mean(), np.median(np.abs(error[some]))
        lines.append(
            f"{name:26s} {some.sum():6d} {part:8.0%} {np.median(turn[some]):12.2f} "
            f"{mean:+13.2f} {middle:12.2f}"
        )
    return "\n".join(lines)


def numbers(found: Fit) -> dict[str, Any]:
    """The keys of a profile."""
    schedule, update = found.schedule, found.update
    launch = np.round(found.launch - found.begin, 2).tolist()
    return {
        "decode_ms": [[x, round(ms, 3)] for x, ms in found.decode],
        "mixed_ms": [[x, round(ms, 3)] for x, ms in found.mixed],
        "per_context_token_ns": round(found.per_context * 1e6, 2),
        "schedule_ms": round(float(schedule[0]) + found.begin, 3),
        "schedule_per_request_us": round(float(schedule[1]) * 1e3, 2),
        "graph_tokens": GRAPH_TOKENS,
        "graph_ms": launch[0][0],
        "pieces_ms": launch[1],
        "eager_ms": launch[2],
        "update_ms": round(float(update[0]), 3),
        "update_per_request_us": round(float(update[1]) * 1e3, 2),
    }


def days(logs: Sequence[Path]) -> list[str]:
    """When the runs were made that logs belong to, by the manifests beside them."""
    manifests = [p.with_name(p.name.replace(".steps.jsonl", ".manifest.json")) for p in logs]
    return sorted({json.loads(p.read_text())["started_at"][:10] for p in manifests})


def write(path: Path, values: dict[str, Any]) -> None:
    """Put each number where a profile has one of this name; all else stays as it is."""
    profile = tomlkit.parse(path.read_text(encoding="utf-8"))
    tables = [table for table in profile.values() if isinstance(table, dict)]
    for key, value in values.items():
        holders = [table for table in tables if key in table]
        if len(holders) != 1:
            raise SystemExit(f"{path}: there is no line {key!r} to put the number in")
        holders[0][key] = value
    path.write_text(tomlkit.dumps(profile), encoding="utf-8")


def main() -> None:
    """Fit, print, and write where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("profile", type=Path)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    steps = read_logs(arguments.logs)
    found = fit(steps)
    print(report(found, steps))
    print(tomlkit.dumps(numbers(found)), end="")
    if arguments.write:
        names = sorted(path.name.removesuffix(".steps.jsonl") for path in arguments.logs)
        facts = {"fitted_on": names, "measured_on": days(arguments.logs)}
        write(arguments.profile, numbers(found) | facts)


if __name__ == "__main__":
    main()
