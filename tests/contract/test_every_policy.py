"""What every registered policy owes its host: one suite that runs over the registry by itself."""

import pytest

from fairlane.core.errors import FairlaneError, UnknownRequestError
from fairlane.core.types import Outcome
from fairlane.policies.registry import policy_names
from tests.driving import admit_all, admit_next, enqueue_all, fresh, req

pytestmark = pytest.mark.parametrize("name", policy_names())

MIXED = [req((c, n), c, 10 * n + 7) for n in range(4) for c in ("b", "a", "c")]


def test_an_empty_policy_has_nothing_to_offer(name: str) -> None:
    policy = fresh(name)
    assert policy.peek(0.0) is None
    assert policy.snapshot().clients == {}


def test_whatever_waits_is_served_once_and_in_the_clients_order(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, MIXED)
    order = admit_all(policy)
    assert sorted(map(str, order)) == sorted(str(request.id) for request in MIXED)
    for client in "abc":
        mine = [request_id for request_id in order if request_id[0] == client]  # type: ignore[index]
        assert mine == [(client, n) for n in range(4)]


def test_something_is_offered_as_long_as_anything_waits(name: str) -> None:
    """Work conservation: debts and counters order the clients, they never make a host idle."""
    policy = fresh(name)
    enqueue_all(policy, MIXED)
    waiting = {request.id for request in MIXED}
    while waiting:
        offered = policy.peek(1.0)
        assert offered is not None
        assert offered.id in waiting
        policy.admit(offered.id, 1.0)
        waiting.discard(offered.id)
        policy.record_tokens({offered.id: 5000}, 1.0)
    assert policy.peek(1.0) is None


def test_peeking_changes_nothing(name: str) -> None:
    looked_at, left_alone = fresh(name), fresh(name)
    picks = []
    for policy in (looked_at, left_alone):
        order = []
        for step, request in enumerate(MIXED):
            enqueue_all(policy, [request], float(step))
            if policy is looked_at:
                before = policy.snapshot()
                assert policy.peek(step) == policy.peek(step)
                assert policy.snapshot() == before
            if step % 2:
                order.append(admit_next(policy, step))
                policy.record_tokens({order[-1]: step}, step)
        picks.append((order, admit_all(policy, 99.0), policy.snapshot()))
    assert picks[0] == picks[1]


def test_a_requeued_request_is_its_clients_next(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, [req(("a", n), "a") for n in range(3)])
    assert [admit_next(policy), admit_next(policy)] == [("a", 0), ("a", 1)]
    policy.record_tokens({("a", 1): 2}, 1.0)
    policy.requeue(("a", 1), 1.0)
    policy.requeue(("a", 0), 1.0, undo=True)
    assert policy.snapshot().clients["a"].queued == 3
    assert admit_all(policy) == [("a", 0), ("a", 1), ("a", 2)]


def test_an_undone_admission_is_offered_again_at_once(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, MIXED)
    for _ in MIXED:
        offered = policy.peek(0.0)
        assert offered is not None
        before = policy.snapshot()
        policy.admit(offered.id, 0.0)
        policy.requeue(offered.id, 0.0, undo=True)
        if name not in {"drr", "round-robin"}:  # there an undo costs the client its turn
            assert policy.peek(0.0) == offered
        if name not in {"drr", "round-robin", "dlpm", "lpm"}:  # and here quanta stay paid
            assert policy.snapshot() == before
        admit_next(policy)


def test_finishing_is_idempotent_and_frees_the_id(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, [req(1, "a"), req(2, "b")])
    admit_all(policy)
    policy.finish(1, 1.0)
    once = policy.snapshot()
    policy.finish(1, 1.0)
    policy.finish(1, 2.0, Outcome.ABORTED)
    assert policy.snapshot() == once
    assert policy.enqueue(req(1, "c"), 3.0) is None
    assert policy.peek(3.0) == req(1, "c")


def test_a_cancelled_request_is_never_offered(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, MIXED)
    for request in MIXED[::2]:
        policy.finish(request.id, 0.0, Outcome.ABORTED)
    assert set(admit_all(policy)) == {request.id for request in MIXED[1::2]}


def test_a_cancelled_first_request_makes_way_for_the_second(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, [req(1, "a"), req(2, "a")])
    policy.finish(1, 0.0, Outcome.ABORTED)
    assert policy.peek(0.0) == req(2, "a")


def test_unknown_ids_are_passed_over_where_hosts_may_be_late(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, [req(1, "a")])
    before = policy.snapshot()
    policy.record_tokens({"ghost": 5}, 0.0)
    policy.finish("ghost", 0.0)
    assert policy.snapshot() == before


def test_unknown_ids_are_errors_where_they_mean_a_broken_host(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, [req(1, "a"), req(2, "a")])
    admit_next(policy)
    for wrong in (1, "ghost"):
        with pytest.raises(UnknownRequestError, match="no waiting request"):
            policy.admit(wrong, 0.0)
    for wrong in (2, "ghost"):
        with pytest.raises(UnknownRequestError, match="no running request"):
            policy.requeue(wrong, 0.0)
    with pytest.raises(FairlaneError, match="already in use"):
        policy.enqueue(req(1, "b"), 0.0)
    assert policy.snapshot().queued == policy.snapshot().running == 1


def test_a_host_may_admit_another_request_than_the_one_offered(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, MIXED)
    policy.admit(("c", 2), 0.0)
    rest = admit_all(policy)
    assert ("c", 2) not in rest
    assert len(rest) == len(MIXED) - 1


def test_the_snapshot_counts_what_waits_and_what_runs(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, MIXED)
    served = [admit_next(policy) for _ in range(5)]
    policy.finish(served[0], 0.0)
    snapshot = policy.snapshot()
    assert (snapshot.queued, snapshot.running) == (len(MIXED) - 5, 4)
    assert list(snapshot.clients) == ["a", "b", "c"]


def test_charges_depend_on_totals_not_on_how_tokens_are_reported(name: str) -> None:
    at_once, one_by_one = fresh(name), fresh(name)
    for policy in (at_once, one_by_one):
        enqueue_all(policy, MIXED)
        running = [admit_next(policy) for _ in range(3)]
    for _ in range(6):
        one_by_one.record_tokens(dict.fromkeys(running, 1), 1.0)
    at_once.record_tokens(dict.fromkeys(running, 6), 1.0)
    assert at_once.snapshot() == one_by_one.snapshot()
    assert admit_all(at_once) == admit_all(one_by_one)


def test_a_client_that_waits_is_served_although_another_never_stops(name: str) -> None:
    """No starvation by one rival with ever more requests."""
    policy = fresh(name)
    enqueue_all(policy, [req(("rival", n), "rival", 50) for n in range(3)])
    enqueue_all(policy, [req("mine", "me", 50)])
    for n in range(3, 20):
        served = admit_next(policy)
        if served == "mine":
            return
        policy.record_tokens({served: 3}, 0.0)
        policy.finish(served, 0.0)
        policy.enqueue(req(("rival", n), "rival", 50), 0.0)
    pytest.fail("never served")


def test_cached_tokens_must_be_part_of_the_prompt(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, [req(1, "a", 10)])
    for wrong in (-1, 11):
        with pytest.raises(FairlaneError, match="10 prompt tokens"):
            policy.admit(1, 0.0, cached_tokens=wrong)
    policy.admit(1, 0.0, cached_tokens=10)
