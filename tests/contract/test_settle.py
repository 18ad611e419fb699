"""Numbers that turn out wrong and are settled, for every registered policy: as if they had been
right from the beginning.
"""

from typing import Any

import pytest

from fairlane.core.cost import Cost, LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.core.policy import Policy
from fairlane.core.tree import split_path
from fairlane.core.types import Request, RequestId, Snapshot
from fairlane.policies.registry import get_policy, policy_names
from tests.driving import admit_all, admit_next, enqueue_all, fresh, req

CLIENTS = ["x/a", "x/b", "y/a"]
EACH = 4  # requests of a client; two of them wait to the end, so that nobody is lifted
COSTS = [LinearCost(1, 2, 0.25), QuadraticCost(cached_price=0.125)]
MOMENTS = ["waiting", "running", "put back", "running again"]
TREE = {"path_of": split_path, "weights": {"x": 2.0, "x/b": 4.0, "y/a": 0.5}}


def options_of(name: str, cost: Cost, tree: bool) -> dict[str, Any]:
    """What of this the policy takes; quanta that nobody uses up, so that all are paid alike."""
    wanted: dict[str, Any] = {"cost": cost, "quantum": 1e6, "true_length": lambda request: 5}
    wanted |= TREE if tree else {"weights": {"x/b": 4.0}}
    return {key: value for key, value in wanted.items() if key in get_policy(name).options}


def true(request_id: Any) -> tuple[int, int]:
    """How long a request's prompt is, and how much of it is cached."""
    client, number = request_id
    prompt = 20 * number + 7 * CLIENTS.index(client) + 11
    return prompt, prompt // (number + 2)


def guess(request_id: Any) -> int:
    """Too much for some, too little for others."""
    prompt, _ = true(request_id)
    return 3 * prompt if request_id[1] % 2 else prompt // 3


class Run:
    """One order of events, with numbers that are right, or settled at a `moment`."""

    def __init__(self, policy: Policy[Any], moment: str | None) -> None:
        self.policy = policy
        self.moment = moment
        self.output: dict[RequestId, int] = {}

    def events(self) -> tuple[Snapshot, list[RequestId], Snapshot]:
        """What the counters say before the requests end, the order of the rest, and the end."""
        ids = [(client, number) for number in range(EACH) for client in CLIENTS]
        length = guess if self.moment else lambda request_id: true(request_id)[0]
        enqueue_all(self.policy, [req(i, i[0], length(i)) for i in ids])
        self.settle_if("waiting", ids)
        first, others = ids[: len(CLIENTS)], ids[len(CLIENTS) : 2 * len(CLIENTS)]
        self.serve(first, 3)
        for request_id in first:  # from whose lengths a predictor learns
            self.settle_if("running", [request_id])
            self.settle_if("put back", [request_id])
            self.settle_if("running again", [request_id])
            self.policy.finish(request_id, 1.0)
        self.serve(others, 2)
        self.settle_if("running", others)
        self.deliver(others, 1)
        for request_id in others:
            self.policy.requeue(request_id, 2.0)
        self.settle_if("put back", others)
        for request_id in others:
            self.policy.admit(request_id, 3.0)
        self.deliver(others, 4)
        self.settle_if("running again", others)
        before = self.policy.snapshot()
        for request_id in others:
            self.policy.finish(request_id, 4.0)
        if self.moment not in (None, "waiting"):
            self.settle(ids[2 * len(CLIENTS) :])
        return before, admit_all(self.policy, 5.0), self.policy.snapshot()

    def serve(self, ids: list[Any], steps: int) -> None:
        for request_id in ids:
            cached = 0 if self.moment not in (None, "waiting") else true(request_id)[1]
            self.policy.admit(request_id, 0.0, cached_tokens=cached)
            self.output[request_id] = 0
        self.deliver(ids, steps)
        if self.moment not in (None, "waiting"):  # chunks that were no tokens
            self.policy.record_tokens({ids[0]: 2}, 0.0)

    def deliver(self, ids: list[Any], steps: int) -> None:
        for _ in range(steps):
            self.policy.record_tokens(dict.fromkeys(ids, 1), 1.0)
        for request_id in ids:
            self.output[request_id] += steps

    def settle_if(self, moment: str, ids: list[Any]) -> None:
        if moment == self.moment:
            self.settle(ids)

    def settle(self, ids: list[Any]) -> None:
        """Twice, which is the same as once."""
        for request_id in ids * 2:
            prompt, cached = true(request_id)
            self.policy.settle(
                request_id,
                1.0,
                prompt_tokens=prompt,
                cached_tokens=cached,
                output_tokens=self.output.get(request_id),
            )


@pytest.mark.parametrize("name", policy_names())
@pytest.mark.parametrize("cost", COSTS, ids=["linear", "quadratic"])
@pytest.mark.parametrize("tree", [False, True], ids=["flat", "tree"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_is_settled_is_as_if_it_had_been_right(
    name: str, cost: Cost, tree: bool, moment: str
) -> None:
    options = options_of(name, cost, tree)
    right, settled = (Run(fresh(name, **options), m).events() for m in (None, moment))
    assert settled == right


@pytest.mark.parametrize("name", policy_names())
def test_what_waits_shows_its_true_length_and_keeps_its_place(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, [req(n, "a", 10) for n in range(2)])
    policy.settle(0, 0.0, prompt_tokens=70)
    assert policy.peek(0.0) == Request(0, "a", 70)
    policy.admit(0, 0.0, cached_tokens=70)
    policy.requeue(0, 0.0)
    policy.settle(0, 0.0, prompt_tokens=7)
    assert policy.peek(0.0) == Request(0, "a", 7)
    assert admit_all(policy) == [0, 1]


@pytest.mark.parametrize("name", policy_names())
def test_an_admission_that_is_undone_gives_back_what_was_settled(name: str) -> None:
    options = options_of(name, LinearCost(), tree=False)
    settled, left_alone = fresh(name, **options), fresh(name, **options)
    for policy in (settled, left_alone):
        enqueue_all(policy, [req((c, n), c, 10) for n in range(2) for c in "ab"])
        request_id = admit_next(policy)
        if policy is settled:
            policy.settle(request_id, 0.0, prompt_tokens=500, output_tokens=3)
            policy.settle(request_id, 0.0, prompt_tokens=50, output_tokens=0)
        policy.requeue(request_id, 0.0, undo=True)
        policy.settle(request_id, 0.0, prompt_tokens=10)
    assert settled.snapshot() == left_alone.snapshot()
    assert admit_all(settled) == admit_all(left_alone)


@pytest.mark.parametrize("name", policy_names())
def test_unknown_requests_are_passed_over_and_impossible_numbers_refused(name: str) -> None:
    policy = fresh(name)
    enqueue_all(policy, [req(1, "a"), req(2, "b")])
    admit_next(policy)
    before = policy.snapshot()
    policy.settle("ghost", 0.0, prompt_tokens=5, output_tokens=5)
    for request_id in (1, 2):
        with pytest.raises(FairlaneError, match="5 prompt tokens cannot have 6"):
            policy.settle(request_id, 0.0, prompt_tokens=5, cached_tokens=6)
        with pytest.raises(FairlaneError, match="-5 prompt tokens"):
            policy.settle(request_id, 0.0, prompt_tokens=-5)
        with pytest.raises(FairlaneError, match="-1 output tokens"):
            policy.settle(request_id, 0.0, prompt_tokens=5, output_tokens=-1)
    assert policy.snapshot() == before
    assert policy.peek(0.0) in (req(1, "a"), req(2, "b"))
