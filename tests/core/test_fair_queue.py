"""What operators get from every VTC: live weights, groups, limits, forgetting, saved counters."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.cost import QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.core.fair_queue import FairQueue
from fairlane.core.limits import QueueLimit
from fairlane.core.tree import split_path
from fairlane.core.types import RequestId
from tests.driving import admit_all, admit_next, counters, enqueue_all, fresh, req

VARIANTS = pytest.mark.parametrize("name", ["vtc", "vtc-predict", "vtc-oracle", "lcf"])


def fair(name: str, **options: Any) -> FairQueue:
    policy = fresh(name, **options)
    assert isinstance(policy, FairQueue)
    return policy


def shares(policy: FairQueue, clients: dict[str, int], admissions: int) -> dict[str, int]:
    """How many of so many admissions each client gets, all backlogged with equal requests."""
    got = dict.fromkeys(clients, 0)
    enqueue_all(policy, [req((c, n), c, size) for c, size in clients.items() for n in range(2)])
    for n in range(2, admissions + 2):
        request = policy.peek(0)
        assert request is not None
        policy.admit(request.id, 0)
        policy.finish(request.id, 0)
        got[request.client] += 1
        policy.enqueue(req((request.client, n), request.client, request.prompt_tokens), 0)
    return got


# -- live weights ----------------------------------------------------------------------------


@VARIANTS
def test_a_new_weight_counts_from_now_on(name: str) -> None:
    policy = fair(name)
    assert shares(policy, {"a": 10, "b": 10}, 40) == {"a": 20, "b": 20}
    before = counters(policy)
    policy.set_weight("b", 3.0)
    assert counters(policy) == before
    served = [admit_next(policy) for _ in range(4)]
    assert len([1 for client, _ in served if client == "b"]) >= 2  # type: ignore[misc,has-type]


def test_a_new_weight_outlives_idleness() -> None:
    policy = fair("vtc")
    policy.set_weight("b", 4.0)
    assert shares(policy, {"a": 10, "b": 10}, 50) == {"a": 10, "b": 40}


def test_a_refund_after_a_change_of_weight_gives_back_no_more_than_was_charged() -> None:
    policy = fair("vtc-oracle", true_length=lambda request: 1000, weights={"a": 100.0})
    policy.enqueue(req(1, "a", 100), 0)
    admit_next(policy)  # (100 + 2000) / 100
    assert counters(policy) == {"a": 21.0}
    policy.set_weight("a", 1.0)
    assert counters(policy) == {"a": 1.0 + 2000.0}
    policy.enqueue(req(2, "a", 100), 0)
    policy.finish(1, 0)
    assert counters(policy) == {"a": 1.0}


@pytest.mark.parametrize("weight", [0.0, -2.0, float("nan"), float("inf")])
def test_a_bad_new_weight_changes_nothing(weight: float) -> None:
    policy = fair("vtc", weights={"a": 2.0})
    policy.enqueue(req(1, "a", 1), 0)
    with pytest.raises(FairlaneError, match="weight of 'a' must be greater than"):
        policy.set_weight("a", weight)
    assert policy.snapshot().clients["a"].weight == 2.0


# -- groups ----------------------------------------------------------------------------------


@VARIANTS
def test_groups_share_first_and_their_members_share_what_the_group_gets(name: str) -> None:
    policy = fair(name, path_of=split_path, weights={"big": 3.0, "big/a": 2.0})
    got = shares(policy, {"big/a": 10, "big/b": 10, "small/x/deep": 10}, 120)
    assert got == {"big/a": 60, "big/b": 30, "small/x/deep": 30}


def test_more_members_get_a_group_no_more() -> None:
    policy = fair("vtc", path_of=split_path)
    many = {f"crowd/{n}": 10 for n in range(9)}
    got = shares(policy, {"alone/a": 10, **many}, 90)
    assert got["alone/a"] == 45
    assert set(got.values()) == {45, 5}


def test_a_client_may_have_the_name_of_a_group() -> None:
    policy = fair("vtc", path_of=split_path)
    enqueue_all(policy, [req(1, "x", 5), req(2, "x/a", 5), req(3, "x", 5), req(4, "x/x", 5)])
    assert admit_all(policy) == [1, 2, 3, 4]


def test_the_weight_of_a_live_group_changes_at_once() -> None:
    policy = fair("vtc", path_of=split_path)
    clients = {"x/a": 10, "x/b": 10, "y/a": 10}
    assert shares(policy, clients, 40) == {"x/a": 10, "x/b": 10, "y/a": 20}
    policy.set_weight("x", 4.0)
    order = []
    for n in range(50):
        order.append(admit_next(policy))
        client = order[-1][0]  # type: ignore[index]
        policy.enqueue(req((client, 1000 + n), client, 10), 0)
    assert len([1 for c, _ in order if c == "y/a"]) == pytest.approx(10, abs=1)  # type: ignore[misc,has-type]


# -- limits ----------------------------------------------------------------------------------


@VARIANTS
def test_a_client_at_its_running_limit_is_passed_over_until_it_drops_below(name: str) -> None:
    policy = fair(name, max_running=2)
    enqueue_all(policy, [req(("a", n), "a", 0) for n in range(4)])
    assert admit_all(policy) == [("a", 0), ("a", 1)]
    assert policy.snapshot().clients["a"].queued == 2
    policy.enqueue(req("b", "b", 0), 0)
    assert admit_next(policy) == "b"
    policy.finish(("a", 0), 0)
    assert admit_all(policy) == [("a", 2)]
    policy.requeue(("a", 1), 0)
    assert admit_all(policy) == [("a", 1)]


@VARIANTS
def test_a_limit_on_running_tokens_counts_input_and_output(name: str) -> None:
    policy = fair(name, max_running_tokens=100)
    enqueue_all(policy, [req(("a", n), "a", 40) for n in range(5)])
    assert admit_next(policy) == ("a", 0)
    policy.record_tokens({("a", 0): 20}, 0)  # 60: one more
    assert admit_next(policy) == ("a", 1)
    assert policy.peek(0) is None  # 100
    policy.finish(("a", 1), 0)
    assert policy.peek(0) is not None  # 60
    policy.record_tokens({("a", 0): 40}, 0)
    assert policy.peek(0) is None  # it grew to 100 while the next was waiting
    policy.finish(("a", 0), 0)
    assert admit_all(policy) == [("a", 2), ("a", 3), ("a", 4)]


@VARIANTS
def test_a_limit_on_running_tokens_follows_what_is_settled(name: str) -> None:
    policy = fair(name, max_running_tokens=100)
    enqueue_all(policy, [req(("a", n), "a", 40) for n in range(3)])
    admit_next(policy)
    policy.settle(("a", 0), 0, prompt_tokens=70, output_tokens=30)
    assert policy.peek(0) is None
    policy.settle(("a", 1), 0, prompt_tokens=1)  # waits: takes up nothing
    policy.settle(("a", 0), 0, prompt_tokens=70, output_tokens=29)
    assert admit_next(policy) == ("a", 1)
    assert policy.peek(0) is None


def test_a_limit_saves_up_no_service() -> None:
    """A client held back by its own limit has no claim on what it did not get meanwhile."""
    policy = fair("vtc", max_running=1)
    enqueue_all(policy, [req(("a", n), "a", 10) for n in range(3)])
    assert admit_next(policy) == ("a", 0)
    for n in range(100):  # b is served and finishes, over and over; a's one request runs on
        policy.enqueue(req(("b", n), "b", 1000), 0)
        policy.enqueue(req(("b", n, 2), "b", 1000), 0)
        assert admit_next(policy) == ("b", n)
        policy.finish(("b", n, 2), 0)
        policy.finish(("b", n), 0)
    policy.enqueue(req("b", "b", 10), 0)
    policy.finish(("a", 0), 0)
    levels = counters(policy)
    assert levels["a"] == levels["b"] == 10 + 100 * 1000.0


@VARIANTS
def test_a_limit_on_waiting_requests_rejects_and_recovers(name: str) -> None:
    policy = fair(name, gates=[QueueLimit(2)])
    enqueue_all(policy, [req(1, "a"), req(2, "a"), req(3, "b")])
    rejection = policy.enqueue(req(4, "a"), 0)
    assert rejection is not None
    assert (rejection.reason, rejection.retry_after_s) == ("queue_full", None)
    assert admit_next(policy) == 1
    assert policy.enqueue(req(4, "a"), 0) is None
    policy.requeue(1, 0)  # never turned away
    policy.finish(2, 0)
    policy.finish(4, 0)
    assert policy.snapshot().clients["a"].queued == 1
    assert policy.enqueue(req(5, "a"), 0) is None
    assert policy.enqueue(req(6, "a"), 0) is not None


@pytest.mark.parametrize("option", ["max_running", "max_running_tokens", "max_idle"])
def test_a_limit_below_one_is_refused_by_name(option: str) -> None:
    with pytest.raises(FairlaneError, match=f"{option} must be greater than or equal to 1"):
        fair("vtc", **{option: 0})


# -- charges ---------------------------------------------------------------------------------


def test_whoever_got_a_token_pays_for_it_whether_or_not_all_got_one() -> None:
    policy = fair("vtc", path_of=split_path)
    enqueue_all(policy, [req("a1", "x/a", 10), req("a2", "x/a", 10), req("b1", "y/b", 10)])
    admit_all(policy)
    steps: list[tuple[dict[RequestId, int], float, float]] = [
        ({"a1": 1, "a2": 1, "b1": 1}, 24, 12),
        ({"a1": 1, "b1": 1}, 26, 14),  # a2 computes a long prompt
        ({"a1": 1, "a2": 1, "b1": 1, "gone": 1}, 30, 16),
        ({"a1": 1, "a2": 2, "b1": 1}, 36, 18),  # a draft was right
        ({"a1": 0, "a2": 2, "b1": 1}, 40, 20),
    ]
    for tokens, a, b in steps:
        policy.record_tokens(tokens, 0)
        assert (policy.standing("x/a"), policy.standing("y/b")) == ((a, a), (b, b))
    policy.requeue("a2", 0)
    policy.record_tokens({"a1": 1, "a2": 1, "b1": 1}, 0)  # a2's was under way when it was preempted
    assert counters(policy) == {"x/a": 44, "y/b": 22}
    policy.finish("a1", 0)
    policy.record_tokens({"b1": 1}, 0)
    assert counters(policy) == {"x/a": 44, "y/b": 24}


# -- advances --------------------------------------------------------------------------------


def test_beyond_the_limit_of_advances_tokens_are_charged_as_they_come() -> None:
    policy = fair("vtc-oracle", true_length=lambda request: 10, max_advance=45.0)
    enqueue_all(policy, [req(n, "a", 0) for n in range(4)])
    levels = []
    for _ in range(3):
        admit_next(policy)
        levels.append(counters(policy)["a"])
    assert levels == [20.0, 40.0, 40.0]  # a third advance of 20 would make 60
    policy.record_tokens({0: 3, 2: 3}, 0)
    assert counters(policy)["a"] == 46.0
    policy.finish(0, 0)  # 14 are given back, and there is room for an advance again
    assert counters(policy)["a"] == 32.0
    admit_next(policy)
    assert counters(policy)["a"] == 52.0


def test_an_advance_that_a_true_prompt_makes_too_dear_is_given_back() -> None:
    cost = QuadraticCost(prompt=1, output_linear=1, cross=1, output_square=0, constant=0)
    policy = fair("vtc-oracle", true_length=lambda request: 10, max_advance=45.0, cost=cost)
    enqueue_all(policy, [req(n, "a", 0) for n in range(2)])
    admit_next(policy)
    policy.record_tokens({0: 2}, 0)
    policy.settle(0, 0, prompt_tokens=3)
    assert counters(policy)["a"] == 3 + 4 * 10
    policy.settle(0, 0, prompt_tokens=4)
    assert counters(policy)["a"] == 4 + 5 * 2
    policy.settle(0, 0, prompt_tokens=4, output_tokens=1)
    assert counters(policy)["a"] == 4 + 5 * 1
    admit_next(policy)  # there is room for an advance again
    assert counters(policy)["a"] == 4 + 5 * 1 + 10


def test_a_limit_of_advances_below_zero_is_refused() -> None:
    with pytest.raises(FairlaneError, match="max_advance must be greater than or equal to 0"):
        fair("vtc", max_advance=-1.0)


# -- preemption --------------------------------------------------------------------------------


def test_a_preempted_client_keeps_its_lead_and_gains_none() -> None:
    policy = fair("vtc")
    enqueue_all(policy, [req("a", "a", 10), *(req(("b", n), "b", 100) for n in range(50))])
    assert [admit_next(policy), admit_next(policy)] == ["a", ("b", 0)]
    # a left the queue 10 above b, so it has no lead: while it runs, b is served 4000 and more
    for n in range(1, 41):
        assert admit_next(policy) == ("b", n)
    policy.requeue("a", 0)
    assert counters(policy) == {"a": 4100.0, "b": 4100.0}


def test_a_lead_survives_preemption() -> None:
    policy = fair("vtc")
    enqueue_all(policy, [req(("b", n), "b", 100) for n in range(50)])
    admit_next(policy), admit_next(policy)  # b 200
    enqueue_all(policy, [req("a", "a", 10)])
    policy.record_tokens({("b", 0): 50}, 0)  # b 300; a was lifted to 200, and is charged 10
    assert admit_next(policy) == "a"
    for n in range(2, 6):
        assert admit_next(policy) == ("b", n)
    policy.requeue("a", 0)
    assert counters(policy) == {"a": 700.0 - 90, "b": 700.0}


# -- forgetting ------------------------------------------------------------------------------


def visit(policy: FairQueue, client: str, service: int) -> tuple[float, float]:
    """One request from arrival to end; the counter on arrival and when it went idle."""
    enqueue_all(policy, [req(client, client, service), req((client, 2), client)])
    arrived = counters(policy)[client]
    policy.admit(client, 0)
    policy.finish(client, 0)
    left = counters(policy)[client]
    policy.finish((client, 2), 0)
    assert arrived is not None
    assert left is not None
    return arrived, left


@VARIANTS
@pytest.mark.parametrize("path_of", [None, split_path])
@given(visits=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1000)), max_size=40))
def test_forgetting_bounds_memory_and_never_pays(
    name: str, path_of: Any, visits: list[tuple[int, int]]
) -> None:
    """Whoever returns, remembered or not, returns no lower than it left."""
    policy = fair(name, max_idle=6, path_of=path_of)
    policy.enqueue(req("pin", "g/pin" if path_of else "pin", 0), 0)
    policy.admit("pin", 0)  # a live member keeps the group known
    left: dict[str, float] = {}
    for number, service in visits:
        client = f"g/{number}"
        arrived, left_at = visit(policy, client, service)
        assert arrived >= left.get(client, 0.0)
        left[client] = left_at
        members = policy.save()["members"]
        if path_of:
            members = members[0][2]["members"]
        assert len(members) <= 1 + 6


def test_a_debtor_is_not_forgiven_by_a_flood_of_new_names() -> None:
    policy = fair("vtc", max_idle=10)
    enqueue_all(policy, [req(("honest", n), "honest", 1) for n in range(2)])
    policy.admit(("honest", 0), 0)  # one more waits, at 1, so that the floor stays low
    _, debt = visit(policy, "greedy", 1_000_000)
    for n in range(100):
        visit(policy, f"name {n}", 1)
    arrived, _ = visit(policy, "greedy", 1)
    assert arrived >= debt


def test_new_clients_pay_for_no_one_while_nothing_is_forgotten() -> None:
    policy = fair("vtc", max_idle=1000)
    enqueue_all(policy, [req(("honest", n), "honest", 1) for n in range(2)])
    policy.admit(("honest", 0), 0)
    visit(policy, "greedy", 1_000_000)
    assert visit(policy, "new", 1) == (1.0, 2.0)


# -- saved counters --------------------------------------------------------------------------


@VARIANTS
def test_counters_survive_a_restart(name: str) -> None:
    options = {"path_of": split_path, "weights": {"x": 2.0}}
    policy = fair(name, **options)
    enqueue_all(policy, [req((c, n), c, 10) for n in range(3) for c in ("x/a", "x/b", "y")])
    for request_id in admit_all(policy)[:5]:
        policy.record_tokens({request_id: 3}, 0)
        policy.finish(request_id, 0)
    saved = json.loads(json.dumps(policy.save()))
    again = fair(name, **options)
    again.restore(saved)
    assert again.save() == saved


def test_a_restart_forgives_no_debt() -> None:
    policy = fair("vtc")
    enqueue_all(policy, [req(1, "a", 1), req(2, "b", 1000)])
    admit_all(policy)
    again = fair("vtc")
    again.restore(policy.save())
    enqueue_all(again, [req(1, "new", 1), req(2, "b", 1), req(3, "a", 1)])
    assert counters(again) == {"a": 1000.0, "b": 1000.0, "new": 1000.0}  # b left last


def test_counters_cannot_be_restored_over_others() -> None:
    policy = fair("vtc")
    policy.enqueue(req(1, "a"), 0)
    with pytest.raises(FairlaneError, match="not used yet"):
        policy.restore(fair("vtc").save())


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"start": 0, "last": None, "members": [["a"]]},
        {"start": 0, "last": None, "members": [["a", float("nan"), None]]},
        {"start": 0, "last": "x", "members": []},
        {"start": None, "last": None, "members": []},
    ],
)
def test_what_was_never_saved_is_refused_and_nothing_changes(saved: Any) -> None:
    policy = fair("vtc")
    with pytest.raises(FairlaneError, match="no counters that were saved"):
        policy.restore(saved)
    assert policy.save() == fair("vtc").save()


def test_standing_lists_the_groups_counters_before_the_clients() -> None:
    queue = FairQueue(path_of=split_path)
    enqueue_all(queue, [req("a", "acme/alice", 10), req("b", "acme/bob", 20)])
    admit_all(queue)
    assert queue.standing("acme/alice") == (30.0, 10.0)
    assert queue.standing("acme/bob") == (30.0, 20.0)


def test_asking_where_an_idle_client_stands_takes_no_memory() -> None:
    policy = fair("vtc", path_of=split_path)
    policy.enqueue(req(1, "x/a", 10), 0)
    assert policy.standing("x/a") == (0.0, 0.0)
    before = policy.save()
    for client in ("x/b", "y/a", "z"):
        assert policy.standing(client) == ()
    assert policy.save() == before
