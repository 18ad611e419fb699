"""The auditor by hand: what counts as a difference, between whom, over which intervals."""

from typing import Any

import pytest

from fairlane.core.audit import Auditor, service_bound
from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.policies.registry import create_policy
from tests.driving import admit_all, admit_next, enqueue_all, fresh, req


def audited(name: str, auditor: Auditor, **options: Any) -> Policy[Any]:
    policy = fresh(name, **options)
    policy.watch(auditor)
    return policy


def test_the_report_says_who_was_ahead_of_whom_by_how_much() -> None:
    auditor = Auditor(bound=100.0)
    policy = audited("fcfs", auditor)
    enqueue_all(policy, [req(("a", n), "a", 10) for n in range(4)])
    enqueue_all(policy, [req(("b", n), "b", 10) for n in range(2)])
    assert str(auditor.report()) == "observed 0, at most 0, bound 100"
    admit_next(policy), admit_next(policy)
    policy.record_tokens({("a", 0): 5}, 0)
    report = auditor.report()
    assert (report.observed, report.between) == (30.0, ("a", "b"))
    assert report.at_most == 60.0
    assert str(report) == "observed 30 between a and b, at most 60, bound 100"


def test_service_counts_only_while_both_wait() -> None:
    auditor = Auditor()
    policy = audited("fcfs", auditor)
    enqueue_all(policy, [req(("a", n), "a", 10) for n in range(3)])
    admit_next(policy)
    policy.record_tokens({("a", 0): 500}, 0)  # b does not wait yet
    enqueue_all(policy, [req("b", "b", 10)])
    policy.record_tokens({("a", 0): 7}, 0)
    assert auditor.report().observed == 14.0
    policy.finish("b", 0)
    policy.record_tokens({("a", 0): 500}, 0)  # b waits no more
    assert auditor.report().observed == 14.0


def test_a_preempted_requests_prompt_counts_once_and_an_undone_admission_not_at_all() -> None:
    auditor = Auditor()
    policy = audited("fcfs", auditor)
    enqueue_all(policy, [req(("a", n), "a", 10) for n in range(3)])
    enqueue_all(policy, [req("b", "b", 10)])
    for _ in range(5):
        admit_next(policy)
        policy.requeue(("a", 0), 0, undo=True)
    assert auditor.report().observed == 10.0
    admit_next(policy)
    policy.record_tokens({("a", 0): 1}, 0)
    for _ in range(5):
        policy.requeue(("a", 0), 0)
        admit_next(policy)
    assert auditor.report().observed == 12.0


def test_what_is_given_back_puts_the_others_ahead() -> None:
    """B is not served meanwhile: its distance grows all the same."""
    auditor = Auditor()
    policy = audited("fcfs", auditor)
    enqueue_all(policy, [req((c, n), c, 10) for n in range(2) for c in "ab"])
    policy.admit(("a", 0), 0)
    policy.settle(("a", 0), 0, prompt_tokens=100)
    assert auditor.report().observed == 100.0
    policy.admit(("b", 0), 0)
    policy.record_tokens({("b", 0): 60}, 0)
    assert (auditor.report().observed, auditor.report().between) == (130.0, ("b", "a"))
    policy.settle(("a", 0), 0, prompt_tokens=20)
    report = auditor.report()
    assert (report.observed, report.between) == (210.0, ("b", "a"))
    assert report.at_most >= 210.0


def test_differences_are_per_weight() -> None:
    auditor = Auditor(weights={"a": 4.0})
    policy = audited("vtc", auditor, weights={"a": 2.0})
    enqueue_all(policy, [req((c, n), c, 100) for n in range(3) for c in "ab"])
    admit_next(policy)
    assert auditor.report().observed == 25.0


def test_a_new_weight_reaches_the_auditor() -> None:
    auditor = Auditor()
    policy: Any = audited("vtc", auditor)
    policy.set_weight("a", 4.0)
    enqueue_all(policy, [req((c, n), c, 100) for n in range(3) for c in "ab"])
    admit_next(policy)
    assert auditor.report().observed == 25.0


def test_organisations_can_be_audited_instead_of_clients() -> None:
    auditor = Auditor(name_of=lambda client: client.split("/")[0])
    policy = audited("fcfs", auditor)
    enqueue_all(policy, [req(1, "x/a", 10), req(2, "x/b", 30), req(3, "y/a", 5), req(4, "x/a", 1)])
    admit_next(policy), admit_next(policy)
    report = auditor.report()
    assert (report.observed, report.between) == (40.0, ("x", "y"))


def test_the_bound_is_twice_what_a_full_batch_is_worth() -> None:
    assert service_bound(10_000, 1_000) == 2 * 2 * 10_000
    assert service_bound(100, 1_000) == 2 * 1_000  # a prompt that never fits
    assert service_bound(100, 1_000, LinearCost(1, 30)) == 2 * 30 * 100
    assert service_bound(10_000, 1_000, least_weight=0.5) == 4 * 2 * 10_000
    h = QuadraticCost()
    a_token = h.output(256, 0, 512) / 512
    expected = 2 * (1000 * a_token + h.constant)  # more than a prompt of 256 is dearer by
    assert service_bound(1000, 256, h, longest_output=512) == pytest.approx(expected)


def test_dear_prompts_add_to_the_bound() -> None:
    """A prompt of 40 at 10 each, and 160 output tokens beside it at 1 each."""
    assert service_bound(200, 40, LinearCost(10, 1)) == 2 * (40 * 10 + 160)


def test_memory_is_bounded_by_who_is_there() -> None:
    """Clients that came once are dropped, be the queue never empty or always."""
    for pinned in (True, False):
        auditor = Auditor()
        policy = create_policy("vtc")
        policy.watch(auditor)
        if pinned:
            enqueue_all(policy, [req("pin", "pin", 0), req("pin2", "pin", 0)])
            admit_next(policy)
        for n in range(5000):
            enqueue_all(policy, [req(n, f"client {n}", 0)])
            admit_all(policy)
            policy.finish(n, 0)
        assert len(auditor._totals) < 300
        assert len(auditor._left) < 300
        assert len(auditor._race.heap) < 300


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"bound": float("nan")}, "bound must be greater than or equal to 0, not nan"),
        ({"weights": {"a": 0.0}}, "the weight of 'a' must be greater than or equal to"),
        ({"weights": {"a": float("nan")}}, "the weight of 'a' must be .*, not nan"),
    ],
)
def test_an_auditor_takes_no_bound_or_weight_that_is_none(
    options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        Auditor(**options)


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"memory_tokens": float("nan")}, "memory_tokens must be"),
        ({"longest_output": 0}, "longest_output must be greater than or equal to 1, not 0"),
        ({"least_weight": 0.0}, "least_weight must be greater than or equal to"),
    ],
)
def test_a_bound_of_no_server_is_refused(numbers: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        service_bound(**{"memory_tokens": 100, "longest_prompt": 10, **numbers})


def test_of_several_queues_it_counts_who_waits_in_every_one_and_all_service() -> None:
    auditor = Auditor(places=2)
    here, there = fresh("fcfs"), fresh("fcfs")
    here.watch(auditor.at(0))
    there.watch(auditor.at(1))
    enqueue_all(here, [req(("a", n), "a", 10) for n in range(3)])
    enqueue_all(here, [req("b", "b", 10)])
    enqueue_all(there, [req("b there", "b", 10)])
    admit_next(here)
    here.record_tokens({("a", 0): 500}, 0)  # nothing of a waits there
    assert auditor.report().observed == 0.0
    enqueue_all(there, [req("a there", "a", 10), req("a there too", "a", 10)])
    here.record_tokens({("a", 0): 3}, 0)
    assert auditor.report().observed == 6.0
    there.finish("b there", 0)
    assert admit_next(there) == "a there"
    there.record_tokens({"a there": 500}, 0)  # b waits there no more
    assert auditor.report().observed == 6.0
    enqueue_all(there, [req("b again", "b", 10)])
    there.record_tokens({"a there": 2}, 0)  # from where it was
    assert auditor.report().observed == 6.0
    there.record_tokens({"a there": 2}, 0)
    assert (auditor.report().observed, auditor.report().between) == (8.0, ("a", "b"))
