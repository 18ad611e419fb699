"""The Virtual Token Counter, plain, with predicted and with known output lengths.

Source: Sheng et al., OSDI 2024: algorithm 2 (vtc), algorithm 3 (vtc-predict, vtc-oracle),
section 4.4 (weights, costs). Bounds: theorem 4.4, 2 max(w_p L_in, w_q M) between clients that
stay backlogged, per weight; predictions improve the average, not the bound. Work-conserving.
"""

from collections.abc import Callable
from typing import Unpack

from fairlane.core.counters import lift_to_least, lift_to_least_or_last
from fairlane.core.fair_queue import FairOptions, FairQueue
from fairlane.core.options import Fraction
from fairlane.core.predict import MovingAverage, Oracle, Predictor
from fairlane.core.types import Request


def vtc(
    *,
    artifact_lift: bool = False,
    predictor: Predictor | None = None,
    **options: Unpack[FairOptions],
) -> FairQueue:
    """Output is charged as it is delivered.

    artifact_lift: no lift when nobody is backlogged, as in the paper's artifact.
    """
    lift = lift_to_least if artifact_lift else lift_to_least_or_last
    return FairQueue(lift=lift, predictor=predictor, **options)


def vtc_predict(*, artifact_lift: bool = False, **options: Unpack[FairOptions]) -> FairQueue:
    """Admission charges the moving average of the client's past outputs."""
    return vtc(artifact_lift=artifact_lift, predictor=MovingAverage(), **options)


def vtc_oracle(
    *,
    true_length: Callable[[Request], int],
    predict_range: Fraction = 0.0,
    uniform: Callable[[float, float], float] | None = None,
    artifact_lift: bool = False,
    **options: Unpack[FairOptions],
) -> FairQueue:
    """Admission charges the true output length, blurred by +-predict_range."""
    oracle = Oracle(true_length, predict_range, uniform)
    return vtc(artifact_lift=artifact_lift, predictor=oracle, **options)
