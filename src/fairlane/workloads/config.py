"""The nine settings of a synthetic workload, with the names that the artifact gives them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fairlane.core.errors import FairlaneError

MOST_REQUESTS = 10_000_000  # some hours of the largest servers; more fill the memory


class WorkloadError(FairlaneError):
    """Settings from which no workload can be made."""


def whole_count(requests: float) -> int:
    """So many requests, rounded down. Raises WorkloadError for more than a workload can have."""
    if not requests <= MOST_REQUESTS:
        raise WorkloadError(
            f"{requests:,.3g} requests are more than the {MOST_REQUESTS:,} that a workload can "
            "have; lower the rate or the duration"
        )
    return int(requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadConfig:
    """What a generator is told.

    num_adapters: clients (the artifact tells its clients apart by their LoRA adapter).
    alpha: exponent of the power law over clients; only for a scalar `req_rate`.
    req_rate: requests per second, one per client or one for all.
    cv: coefficient of variation of the gaps between arrivals of random modes; +-1 is Poisson.
    duration: seconds.
    input_range, output_range: lengths in tokens, the upper end excluded.
    on_off: seconds; client 0 is silent in every second such window. -1 is never.
    mode: the generator's name.
    """

    num_adapters: int
    alpha: float = -1
    req_rate: tuple[float, ...] | float
    cv: float = -1
    duration: float = 600
    input_range: tuple[int, int] = (256, 257)
    output_range: tuple[int, int] = (256, 257)
    on_off: float = -1
    mode: str = "uniform"

    def __post_init__(self) -> None:
        if not (0 < self.duration < math.inf):
            raise WorkloadError(f"duration must be a positive number of seconds: {self.duration}")
        for name in ("input_range", "output_range"):
            low, high = getattr(self, name)
            if not 1 <= low < high:
                raise WorkloadError(f"{name} must be (low, high), 1 <= low < high: {low}, {high}")
        if isinstance(self.req_rate, tuple) and len(self.req_rate) != self.num_adapters:
            raise WorkloadError(
                f"{len(self.req_rate)} rates for {self.num_adapters} clients; give one each"
            )
        if self.cv == 0 or self.on_off == 0:
            raise WorkloadError("cv and on_off must not be 0; -1 is their default")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> "WorkloadConfig":
        """The settings as a result file states them: a mapping with lists for pairs and rates.

        Raises WorkloadError for names that are no setting and for settings that make no sense.
        """
        names = {setting.name for setting in fields(cls)}
        if unknown := sorted(set(settings) - names):
            raise WorkloadError(f"no workload setting is called {', '.join(unknown)}")
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
        }
        try:
            return cls(**given)
        except TypeError as error:
            raise WorkloadError(f"not the settings of a workload ({error})") from None
