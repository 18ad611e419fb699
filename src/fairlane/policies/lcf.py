"""Least counter first: VTC without the lift, the paper's ablation (section 5.1, "LCF").

Bounds: none that hold after idleness. A client that was idle has a low counter and is served
alone until it has caught up, so the others starve meanwhile.
"""

from typing import Unpack

from fairlane.core.counters import no_lift
from fairlane.core.fair_queue import FairOptions, FairQueue


def lcf(**options: Unpack[FairOptions]) -> FairQueue:
    """Least counter first, no lift."""
    return FairQueue(lift=no_lift, **options)
