"""The random numbers of one simulated run, drawn up front from a seed."""

from dataclasses import dataclass

import numpy as np

_CHUNK = 4096
_SPELL = 16  # steps for which luck lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What makes one run differ from another: standard deviations of normal factors, and a range.

    step, run: relative, of each step's latency and of a whole run's. delay_s: a request reaches
    the router after a uniform delay of this range; without noise its lower end.
    """

    step: float = 0.0
    run: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)

    def without(self) -> "Noise":
        """Every step takes exactly what the profile says."""
        return Noise(delay_s=(self.delay_s[0],) * 2)


class Randomness:
    """Seeded noise: one factor per step, one delay per request.

    factors[i] multiplies the latency of step i, and luck[i], from 0 to 1, is for what varies within
    limits; `grow` makes more of them.
    """

    def __init__(self, seed: int, noise: Noise) -> None:
        self._rng = np.random.default_rng(seed)
        self._noise = noise
        self._run = 1.0 + noise.run * float(self._rng.standard_normal())
        self._dice = np.random.default_rng((seed, 1))
        self.factors: list[float] = []
        self.luck: list[float] = []

    def delays(self, count: int) -> list[float]:
        """How long each of `count` requests takes to reach the router, in seconds."""
        low, high = self._noise.delay_s
        return list(map(float, low + (high - low) * self._rng.random(count)))

    def forget(self, count: int) -> int:
        """Drop the first `count` factors, once that is worth it; how many were dropped."""
        if count < _CHUNK:
            return 0
        del self.factors[:count], self.luck[:count]
        return count

    def grow(self, count: int) -> None:
        """See to it that there are at least `count` factors."""
        while len(self.factors) < count:
            if self._noise.step:
                steps = 1.0 + self._noise.step * self._rng.standard_normal(_CHUNK)
                self.factors += (self._run * steps).tolist()
                self.luck += np.repeat(self._dice.random(_CHUNK // _SPELL), _SPELL).tolist()
            else:
                self.factors += [self._run] * _CHUNK
                self.luck += [0.5] * _CHUNK
