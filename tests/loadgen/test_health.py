"""When the client says of itself that it was the bottleneck."""

import pytest

from fairlane.loadgen.health import Lag, bottleneck

WELL = {"send_lag_p99_s": 0.01, "loop_lag_p99_s": 0.01, "cpu_share": 0.5}


def test_client_that_keeps_up_does_not_warn() -> None:
    assert bottleneck(WELL) is None


@pytest.mark.parametrize(
    ("sign", "value", "said"),
    [
        ("send_lag_p99_s", 0.3, "left 0.3 s late"),
        ("loop_lag_p99_s", 0.06, "read up to 0.06 s late"),
        ("cpu_share", 0.97, "used 97% of a core"),
    ],
)
def test_each_sign_of_a_bottleneck_is_enough(sign: str, value: float, said: str) -> None:
    warning = bottleneck({**WELL, sign: value})
    assert warning is not None
    assert said in warning


def test_lags_are_zero_where_nothing_was_sent() -> None:
    assert Lag.of([]) == (0.0, 0.0, 0.0)
