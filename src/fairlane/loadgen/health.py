"""Whether the client keeps up: a load generator that lags measures itself, not the server.

Three signs. A request leaves late: the load was not the intended one. The event loop runs late:
tokens were read, and given their times, after they came. The process has used up its core: both
will follow.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

LATE_S = 0.05  # about a decode step of the models measured
BUSY = 0.9  # of one core, which is all that one event loop can use


class Lag(NamedTuple):
    """How late something was, seconds."""

    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> "Lag":
        """The spread of lags; zeros where there were none."""
        p50, p99, most = np.percentile(values or [0.0], (50, 99, 100)).tolist()
        return cls(p50, p99, most)


@dataclass(slots=True)
class Health:
    """What the client notes about itself while it sends."""

    send_lags_s: list[float] = field(default_factory=list)
    loop_lags_s: list[float] = field(default_factory=list)
    _cpu_s: float = field(default_factory=time.process_time)
    _wall_s: float = field(default_factory=time.monotonic)

    def cpu_share(self) -> float:
        """The part of one core that this process has used since the start."""
        wall = time.monotonic() - self._wall_s
        return (time.process_time() - self._cpu_s) / wall if wall > 0 else 0.0

    def report(self) -> dict[str, float]:
        """Lags in seconds and the part of a core used, by name, for a manifest."""
        lags = {"send_lag": Lag.of(self.send_lags_s), "loop_lag": Lag.of(self.loop_lags_s)}
        numbers = {
            f"{name}_{part}_s": value
            for name, lag in lags.items()
            for part, value in lag._asdict().items()
        }
        return {**numbers, "cpu_share": self.cpu_share()}


def bottleneck(report: dict[str, float]) -> str | None:
    """What says that the client itself limited the measurement; None where nothing does."""
    signs = []
    if report["send_lag_p99_s"] > LATE_S:
        signs.append(f"one request in a hundred left {report['send_lag_p99_s']:.2g} s late")
    if report["loop_lag_p99_s"] > LATE_S:
        signs.append(f"tokens were read up to {report['loop_lag_p99_s']:.2g} s late (p99)")
    if report["cpu_share"] > BUSY:
        signs.append(f"it used {report['cpu_share']:.0%} of a core")
    if not signs:
        return None
    return f"the client was a bottleneck: {', '.join(signs)}; lower the rate or free its machine"
