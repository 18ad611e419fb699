"""What tools/cluster_runs.py makes of the answers that clients got. Times are in seconds."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

BIN_S = 0.5
INPUT_PRICE, OUTPUT_PRICE = 1.0, 2.0


class Answered(Protocol):
    """One request that was answered; since the load began."""

    sent: float
    first: float
    last: float

    def within(self, begin: float, end: float) -> float:
        """Tokens that came between these times."""


def curve(answers: Sequence[Answered], prompt: int, bins: int) -> list[float]:
    """Service of each bin: prompts with their first token, outputs evenly from then on."""
    served = np.zeros(bins)
    for answer in answers:
        place = int(answer.first / BIN_S)
        if place < bins:
            served[place] += INPUT_PRICE * prompt
        for at in range(place, min(bins, int(answer.last / BIN_S) + 1)):
            served[at] += OUTPUT_PRICE * answer.within(at * BIN_S, (at + 1) * BIN_S)
    return [round(float(x), 1) for x in served]


def first_tokens(answers: Sequence[Answered]) -> list[float]:
    """Median and 99th percentile of the time to the first token."""
    found = np.percentile([a.first - a.sent for a in answers], [50, 99])
    return [round(float(x), 4) for x in found]


def fewest_waiting(answers: Sequence[Answered], begin: float, end: float) -> int:
    """Requests that were sent and have no token yet, at the instant of fewest."""
    at = np.arange(begin, end, 0.1)
    sent, first = np.sort([a.sent for a in answers]), np.sort([a.first for a in answers])
    waiting = np.searchsorted(sent, at, "right") - np.searchsorted(first, at, "right")
    return int(waiting.min())


def largest_difference(curves: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> float:
    """Of two clients' service per weight, over any interval of what counts."""
    widest = 0.0
    for ahead in curves:
        for behind in curves:
            gap = np.cumsum(
                curves[ahead] / weights.get(ahead, 1.0) - curves[behind] / weights.get(behind, 1.0)
            )
            gap = np.concatenate([[0.0], gap])
            widest = max(widest, float(np.max(gap - np.minimum.accumulate(gap))))
    return widest
