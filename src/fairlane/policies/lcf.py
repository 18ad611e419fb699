"""Least counter first: VTC without the lift, the paper's ablation (section 5.1, "LCF").

Bounds: none that hold after idleness. A client that was idle has a low counter and is served
alone until it has caught up, so the others starve meanwhile.
"""

from collections.abc import Mapping

from fairlane.core.cost import Cost
from fairlane.core.fair_queue import FairQueue, no_lift


def lcf(*, weights: Mapping[str, float] | None = None, cost: Cost | None = None) -> FairQueue:
    """Least counter first, no lift."""
    return FairQueue(weights=weights, cost=cost, lift=no_lift)
