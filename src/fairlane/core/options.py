"""Ranges of options, declared once, beside their types.

    def rpm(*, window_s: Positive = 60.0) -> ...

A constructor holds its own numbers against them (`Range.check`). Whatever comes from outside, such
as a file, is checked together with its type by fairlane.validation; pydantic, which does that,
finds the range by the name of a method, so nothing is imported here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fairlane.core.errors import FairlaneError


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a finite number: gt and lt are excluded, ge and le are not."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def check(self, name: str, value: float) -> None:
        """Raise FairlaneError, naming the option, unless `value` is a number within."""
        good = (
            math.isfinite(value)
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )
        if not good:
            raise FairlaneError(f"{name} must be {self}, not {value!r}")

    def __str__(self) -> str:
        words = {
            "gt": "greater than", "ge": "greater than or equal to",
            "lt": "less than", "le": "less than or equal to",
        }  # fmt: skip
        bounds = (f"{words[kind]} {bound:,.7g}" for kind, bound in self._bounds().items())
        return " and ".join(bounds)

    def _bounds(self) -> dict[str, float]:
        return {kind: bound for kind, bound in asdict(self).items() if bound is not None}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        """What pydantic asks of annotations: the schema of the type, with these bounds."""
        schema = {**handler(source), **self._bounds()}
        return schema if schema["type"] == "int" else {**schema, "allow_inf_nan": False}


AT_LEAST_ONE = Range(ge=1)
ABOVE_ZERO = Range(gt=0)
NOT_NEGATIVE = Range(ge=0)
FRACTION = Range(ge=0, le=1)

QUANTA = Range(ge=1e-3, le=1e12)  # rounds are counted by dividing by one
WEIGHTS = Range(ge=1e-6, le=1e6)  # beyond, service per weight leaves what doubles hold exactly

Count = Annotated[int, AT_LEAST_ONE]
Whole = Annotated[int, NOT_NEGATIVE]
Positive = Annotated[float, ABOVE_ZERO]
NotNegative = Annotated[float, NOT_NEGATIVE]
Fraction = Annotated[float, FRACTION]
Weight = Annotated[float, WEIGHTS]
Quantum = Annotated[float, QUANTA]


def checked_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """A copy of the weights, by client or group. Raises FairlaneError for one out of range."""
    found = dict(weights or {})
    for name, weight in found.items():
        WEIGHTS.check(f"the weight of {name!r}", weight)
    return found
