"""The batches of vLLM's scheduler: cases worked by hand, and what holds for any workload.

That the batches are those of the real one is tested where it is installed, in
tests/engines/vllm/inside/test_simulator.py.
"""

import random
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.preemption import PREEMPTIONS
from fairlane.core.types import Request
from fairlane.policies.registry import create_policy
from fairlane.simulator.batching import Batch, BatchScheduler
from fairlane.simulator.step_latency import StepSize
from fairlane.workloads.trace import TracedRequest

PLENTY = 1000


def scheduler(
    *lengths: tuple[int, int],
    max_seqs: int = 8,
    token_budget: int = 100,
    blocks: int = PLENTY,
    block_size: int = 4,
) -> BatchScheduler:
    """First come, first served, with requests of these (prompt, output) lengths waiting."""
    requests = [TracedRequest(i, "a", 0.0, *pair) for i, pair in enumerate(lengths)]
    made = BatchScheduler(
        requests, create_policy("fcfs"), max_seqs=max_seqs, token_budget=token_budget,
        blocks=blocks, block_size=block_size,
    )  # fmt: skip
    for request in requests:
        made.add(request.id, 0.0)
    return made


def tokens(batch: Batch) -> dict[int, int]:
    """Tokens by request."""
    return {part.live.position: part.tokens for part in batch.parts}


def step(made: BatchScheduler) -> dict[int, int]:
    """One step that answers at once."""
    batch = made.schedule(0.0)
    made.update(batch, 0.0)
    return tokens(batch)


def test_a_prompt_is_cut_at_the_token_budget() -> None:
    made = scheduler((25, 2), (4, 2), (30, 1), token_budget=10)
    assert step(made) == {0: 10}
    assert step(made) == {0: 10}
    assert step(made) == {0: 5, 1: 4, 2: 1}  # the rest of the budget goes to those behind
    assert step(made) == {0: 1, 1: 1, 2: 8}  # decodes come first; both end
    assert step(made) == {2: 10}


def test_a_piece_of_a_prompt_gives_no_token() -> None:
    made = scheduler((25, 2), token_budget=10)
    given = [made.update(made.schedule(0.0), 0.0) for _ in range(4)]
    assert given == [([], []), ([], []), ([0], []), ([0], [0])]


def test_no_more_run_than_may() -> None:
    made = scheduler((4, 2), (4, 3), (4, 1), max_seqs=2)
    assert step(made) == {0: 4, 1: 4}
    assert step(made) == {0: 1, 1: 1}
    assert step(made) == {1: 1, 2: 4}


def test_who_does_not_fit_holds_up_all_behind() -> None:
    made = scheduler((12, 1), (8, 1), (4, 1), blocks=4)
    assert step(made) == {0: 12}  # three of four blocks; the second wants two, the third one
    assert step(made) == {1: 8, 2: 4}


def test_a_request_is_admitted_only_if_all_of_its_prompt_fits() -> None:
    made = scheduler((4, 1), (16, 1), blocks=4, token_budget=8)
    assert step(made) == {0: 4}
    assert step(made) == {1: 8}


def test_the_newest_makes_room_and_computes_everything_anew() -> None:
    made = scheduler((4, 5), (3, 4), (8, 1), blocks=3)
    assert step(made) == {0: 4, 1: 3}  # a block each, and one is left
    assert step(made) == {0: 1, 1: 1}  # the first takes it; the second has room in its own
    batch = made.schedule(0.0)  # now the second needs another
    assert (tokens(batch), batch.preempted) == ({0: 1}, [1])
    made.update(batch, 0.0)
    assert step(made) == {0: 1}  # the second wants two blocks for its five tokens
    assert step(made) == {0: 1}
    assert step(made) == {1: 5}  # its prompt and two tokens, and before the one behind it
    assert step(made) == {1: 1}
    assert step(made) == {2: 8}


def test_a_step_that_preempts_admits_nobody() -> None:
    made = scheduler((4, 9), (4, 9), (4, 1), blocks=2)
    assert step(made) == {0: 4, 1: 4}
    batch = made.schedule(0.0)
    assert (tokens(batch), batch.preempted) == ({0: 1}, [1])
    assert made.free_blocks == 0


def test_a_step_may_be_scheduled_before_the_last_one_answered() -> None:
    made = scheduler((4, 3))
    first, second = made.schedule(0.0), made.schedule(0.0)
    assert [tokens(first), tokens(second)] == [{0: 4}, {0: 1}]
    assert made.update(first, 0.0) == ([0], [])
    third = made.schedule(0.0)
    assert made.update(second, 0.0) == ([0], [])
    assert made.schedule(0.0).parts == []  # its last token is under way
    assert made.update(third, 0.0) == ([0], [0])
    assert (made.running, made.free_blocks) == ([], PLENTY)


def test_a_token_under_way_survives_preemption() -> None:
    made = scheduler((3, 9), (3, 2), blocks=2)
    first, second = made.schedule(0.0), made.schedule(0.0)
    assert [tokens(first), tokens(second)] == [{0: 3, 1: 3}, {0: 1, 1: 1}]
    made.update(first, 0.0)
    third = made.schedule(0.0)
    assert (tokens(third), third.preempted) == ({0: 1}, [1])
    assert made.update(second, 0.0) == ([0, 1], [1])  # it was the last one
    assert made.waiting == 0


def first_victim(preemption: str) -> list[int]:
    """Three requests of client a and then one of b fill the memory; who gives up theirs."""
    requests = [TracedRequest(i, "aaab"[i], 0.0, 4, 9) for i in range(4)]
    made = BatchScheduler(
        requests, create_policy("fcfs"), max_seqs=8, token_budget=100, blocks=6, block_size=4,
        preemption=preemption,
    )  # fmt: skip
    for request in requests:
        made.add(request.id, 0.0)
    while True:
        batch = made.schedule(0.0)
        if batch.preempted:
            return batch.preempted
        made.update(batch, 0.0)


def test_preemption_takes_the_newest_or_from_who_holds_most() -> None:
    # each needs a second block: two are free, and the victim's own makes three
    assert first_victim("newest") == [3]
    assert first_victim("fairest") == [2]


def test_the_size_of_a_step_is_what_its_latency_depends_on() -> None:
    made = scheduler((10, 5), (30, 1), token_budget=24)
    assert made.schedule(0.0).size() == StepSize(0, 0, 24, 10**2 + 14**2)
    assert made.schedule(0.0).size() == StepSize(1, 10, 16, 30**2 - 14**2)
    assert made.schedule(0.0).size() == StepSize(1, 11, 0, 0)


@given(
    seed=st.integers(0, 10_000),
    max_seqs=st.sampled_from([1, 3, 16]),
    token_budget=st.sampled_from([8, 40, 1000]),
    blocks=st.sampled_from([12, 40, PLENTY]),
    run_ahead=st.booleans(),
    name=st.sampled_from(["fcfs", "vtc", "vtc-predict", "drr"]),
    preemption=st.sampled_from(PREEMPTIONS),
)
def test_for_any_workload(
    seed: int,
    max_seqs: int,
    token_budget: int,
    blocks: int,
    run_ahead: bool,
    name: str,
    preemption: str,
) -> None:
    """Everybody gets their tokens, nothing is handed out twice, and no room is wasted."""
    dice = random.Random(seed)
    requests = [
        TracedRequest(i, dice.choice("abc"), 0.0, dice.randint(1, 24), dice.randint(1, 24))
        for i in range(30)
    ]
    policy = create_policy(name)
    made = BatchScheduler(
        requests, policy, max_seqs=max_seqs, token_budget=token_budget, blocks=blocks,
        block_size=4, preemption=preemption,
    )  # fmt: skip
    coming, under_way, delivered = deque(requests), deque[Batch](), Counter[int]()
    while coming or made.running or made.waiting:
        while coming and dice.random() < 0.5:
            assert made.add(coming.popleft().id, 0.0) is None
        batch = made.schedule(0.0)
        used = sum(tokens(batch).values())
        held = sum(live.blocks for live in made.running)
        assert held == blocks - made.free_blocks <= blocks
        assert all(4 * live.blocks >= live.computed for live in made.running)
        assert len(made.running) <= max_seqs
        assert used <= token_budget
        if not batch.preempted and used < token_budget and len(made.running) < max_seqs:
            assert not fits(made, policy.peek(0.0))
        under_way.append(batch)
        if len(under_way) > run_ahead:
            delivered.update(made.update(under_way.popleft(), 0.0)[0])
    assert delivered == {request.id: request.output_len for request in requests}
    assert made.free_blocks == blocks


def fits(made: BatchScheduler, head: Request | None) -> bool:
    """Whether the head of the queue, if any, could have been admitted by its prompt."""
    return head is not None and -(-head.prompt_tokens // 4) <= made.free_blocks - 6
