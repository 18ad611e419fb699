"""Fits the quadratic cost function to how long a server takes (paper, section 4.4 and appendix B).

h(x, y) = prompt x + output_linear y + cross x y + output_square y^2 + constant for x input and y
output tokens, in milliseconds of the server per request. The first and the last term are the
prefill's, the others the decode's, so that prefills, decodes and whole requests that were timed
apart all serve one least-squares fit. No term is below 0, since nobody is paid for being served: a
term that noise makes negative is left out.
"""

import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tomlkit
from numpy.typing import NDArray
from pydantic import Field

from fairlane.core.cost import QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.files import atomic_write
from fairlane.simulator.profile import MAX_BATCH, Profile
from fairlane.validation import Table, checked, parsed
from fairlane.workloads.rows import Row, read_rows

PHASES = ("prefill", "decode", "request")
COLUMNS = ("phase", "prompt_len", "output_len", "seconds")
COEFFICIENTS = ("prompt", "output_linear", "cross", "output_square", "constant")

Numbers = NDArray[np.float64]
BATCH = 16  # that a profile is sampled at, unless said otherwise
GRID = (16, 32, 64, 128, 256, 384, 512, 768, 1024)  # lengths that a profile is sampled at


class TimingError(FairlaneError):
    """Times that no cost can be fitted to; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One measurement: a prefill, all decode steps of a request, or both ("request").

    seconds: of `batch` equal requests that ran together; each is charged its part.
    """

    phase: str
    prompt_len: int
    output_len: int
    seconds: float
    batch: int = 1


@dataclass(frozen=True, slots=True)
class CostFit:
    """A fitted cost and how well it fits. rmse_ms: of a request's time; r_squared: up to 1."""

    cost: QuadraticCost
    timings: int
    rmse_ms: float
    worst_ms: float
    r_squared: float

    def coefficients(self) -> dict[str, float]:
        """The five numbers of h, in milliseconds."""
        values = asdict(self.cost)
        return {name: values[name] for name in COEFFICIENTS}

    def residuals(self) -> dict[str, float]:
        """How well it fits, by name."""
        return {"rmse_ms": self.rmse_ms, "worst_ms": self.worst_ms, "r_squared": self.r_squared}


def fit_cost(timings: Sequence[Timing]) -> CostFit:
    """The least-squares fit. Raises TimingError where the lengths do not determine all terms."""
    features = np.array([_features(timing) for timing in timings]).reshape(-1, len(COEFFICIENTS))
    ms = np.array([1e3 * timing.seconds / timing.batch for timing in timings])
    scale = np.abs(features).max(axis=0, initial=0.0)  # lengths squared are large; keep rank
    scale[scale == 0] = 1.0
    if np.linalg.matrix_rank(features / scale) < len(COEFFICIENTS):
        raise TimingError(
            f"{len(timings)} times do not determine the cost: time prefills of at least two "
            "prompt lengths, and decodes of several output lengths at two prompt lengths"
        )
    solution = _without_negative_terms(features / scale, ms) / scale
    values = dict(zip(COEFFICIENTS, solution.tolist(), strict=True))
    residual = ms - features @ solution
    spread = float(((ms - ms.mean()) ** 2).sum())
    return CostFit(
        cost=QuadraticCost(**values),
        timings=len(timings),
        rmse_ms=float(np.sqrt((residual**2).mean())),
        worst_ms=float(np.abs(residual).max()),
        r_squared=1.0 - float((residual**2).sum()) / spread if spread else 1.0,
    )


def _without_negative_terms(features: Numbers, ms: Numbers) -> Numbers:
    """The least-squares solution, and of the terms that are left as long as one is below 0."""
    left = list(range(features.shape[1]))
    solution = np.zeros(features.shape[1])
    while left:
        found = np.linalg.lstsq(features[:, left], ms, rcond=None)[0]
        if found.min() >= 0:
            solution[left] = found
            break
        left.pop(int(found.argmin()))
    return solution


def _features(timing: Timing) -> tuple[float, ...]:
    """What each coefficient is multiplied by."""
    x, y = float(timing.prompt_len), float(timing.output_len)
    prefill, decode = timing.phase != "decode", timing.phase != "prefill"
    return (x * prefill, y * decode, x * y * decode, y * y * decode, float(prefill))


def profile_timings(profile: Profile, batch: int) -> list[Timing]:
    """The times of `batch` equal requests by a latency profile, over a grid of lengths."""
    if not 1 <= batch <= MAX_BATCH:
        raise TimingError(f"batch must be 1 to {MAX_BATCH}, not {batch}")
    timings = [Timing("prefill", x, 0, profile.prefill(batch * x), batch) for x in GRID]
    for x in GRID:
        seconds = 0.0
        for y in range(1, max(GRID) + 1):  # the prefill gives the first of them
            if y > 1:
                seconds += profile.decode(batch, batch * (x + y - 1), x + y - 1)
            if y in GRID:
                timings.append(Timing("decode", x, y, seconds, batch))
    return timings


def read_timings(path: str | os.PathLike[str]) -> list[Timing]:
    """Read times from CSV: phase, prompt_len, output_len, seconds, and batch where it is not 1.

    A phase is one of PHASES; a prefill's output_len is 0 or empty. Raises TimingError, naming
    file and line.
    """
    return list(read_rows(path, _timing, TimingError, COLUMNS, optional=("batch",)))


def _timing(row: Row) -> Timing:
    """One row. Raises ValueError that says what is wrong with it."""
    timing = Timing(
        phase=row.fields["phase"],
        prompt_len=row.whole("prompt_len"),
        output_len=row.whole("output_len") if row.fields["output_len"] else 0,
        seconds=row.number("seconds"),
        batch=row.whole("batch") if row.fields.get("batch") else 1,
    )
    if timing.phase not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(PHASES)}, not {timing.phase!r}")
    if not 0 <= timing.seconds < float("inf"):
        raise ValueError(f"seconds must be at least 0, not {timing.seconds}")
    if min(timing.prompt_len, timing.output_len) < 0 or timing.batch < 1:
        raise ValueError("lengths must be at least 0, and batch at least 1")
    return timing


def write_cost(path: str | os.PathLike[str], fit: CostFit, source: str) -> None:
    """Write a fit as TOML, or as JSON where `path` ends in .json. Raises OutputError."""
    provenance = {"source": source, "timings": fit.timings, **fit.residuals()}
    content: dict[str, dict[str, Any]] = {"cost": fit.coefficients(), "provenance": provenance}
    with atomic_write(path) as file:
        if Path(path).suffix == ".json":
            json.dump(content, file, indent=2)
            file.write("\n")
            return
        file.write("# Cost of a request in milliseconds, for `fairlane simulate --cost FILE`.\n\n")
        tomlkit.dump(content, file)


class _CostFile(Table):
    cost: dict[str, Any]
    provenance: Annotated[dict[str, Any], Field(default_factory=dict)]


def read_cost(path: Path) -> QuadraticCost:
    """Read a cost that `write_cost` wrote as TOML. Raises FairlaneError, naming the file."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        cost = parsed(_CostFile, content).cost
        given = checked(QuadraticCost, cost, what="key")
        if missing := [name for name in COEFFICIENTS if name not in given]:
            raise FairlaneError(f"no {', '.join(missing)} in [cost]")
        return QuadraticCost(**given)
    except OSError as error:
        raise FairlaneError(f"{path}: cannot be read ({(error.strerror or '').lower()})") from error
    except ValueError as error:  # bad TOML, bad UTF-8, or no cost
        raise FairlaneError(f"{path}: not a cost as profile-cost writes it: {error}") from error
