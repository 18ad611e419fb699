"""What happened between two looks at a server."""

from fairlane.door.watch import compare


def test_shares_and_rates_are_of_the_time_in_between() -> None:
    before = {"a": {"service": 100.0, "output_tokens": 50, "admissions": 1, "wait_s": 1.0}}
    now = {
        "a": {"service": 130.0, "output_tokens": 60, "admissions": 3, "wait_s": 2.0, "queued": 4},
        "b": {"service": 10.0, "input_tokens": 4, "cached_tokens": 2},
    }
    a, b = compare(now, before, 2.0)
    assert (a.client, a.share, a.output_rate, a.wait_s, a.queued) == ("a", 0.75, 5.0, 0.5, 4)
    assert (b.client, b.share, b.input_rate, b.wait_s) == ("b", 0.25, 3.0, None)


def test_a_server_that_started_over() -> None:
    (row,) = compare({"a": {"output_tokens": 8}}, {"a": {"output_tokens": 1000}}, 1.0)
    assert row.output_rate == 8.0
    assert row.share is None
