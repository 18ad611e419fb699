"""Short windows and the running batch: hand-worked, and what prediction does to VTC's waves."""

import numpy as np
import pytest

from fairlane.experiments.settings import Settings
from fairlane.metrics.smoothness import batch_shares, window_differences
from fairlane.metrics.table import Table
from fairlane.records import RequestRecord


def served(client: str, start: float, end: float) -> RequestRecord:
    """A request of cost 100 + 2 * 50 = 200 that is served from `start` to `end`."""
    return RequestRecord(0, client, 0.0, 100, 50, start, end)


ALTERNATING = Table.from_records(
    served(client, 2.0 * n, 2.0 * n + 2.0) for n, client in enumerate("abab")
)


def test_waves_show_in_short_windows_and_vanish_in_long_ones() -> None:
    """Each wave gives one client 100 a second for 2 s; over 4 s both got the same."""
    assert window_differences(ALTERNATING, 0, 8, 2.0) == pytest.approx([100, 0, 100, 0, 100, 0])
    assert window_differences(ALTERNATING, 0, 8, 4.0) == pytest.approx(0.0)


def test_the_batch_is_of_one_client_alone() -> None:
    shares = batch_shares(ALTERNATING, np.array([1.0, 3.0, 5.0, 9.0]))
    assert shares[:3].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert np.isnan(shares[3]).all()


def overload(scheduler: str) -> Table:
    settings = Settings(suite="overload", scheduler=scheduler, duration=200)
    return Table.from_records(settings.run().records)


def test_prediction_smooths_the_waves_of_vtc() -> None:
    waves, smooth = overload("vtc"), overload("vtc-predict")
    for window in (2.0, 10.0):
        before = window_differences(waves, 60, 200, window).mean()
        after = window_differences(smooth, 60, 200, window).mean()
        assert after < 0.1 * before
    instants = np.arange(60.0, 200.0)
    uneven = [np.abs(batch_shares(table, instants) - 0.5).mean() for table in (waves, smooth)]
    assert uneven[1] < 0.1 < 0.3 < uneven[0]
