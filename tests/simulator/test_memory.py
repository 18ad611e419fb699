"""The admission test equals the obvious one: sort, and look at every prefix."""

from hypothesis import given
from hypothesis import strategies as st

from fairlane.simulator.memory import MemoryPlan

# (remaining output, context) of running requests
members = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 300)), max_size=12)
candidates = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 300)), min_size=1, max_size=4)


Member = tuple[int, int]


def obvious_need(entries: list[Member]) -> int:
    """The most memory over time: after the k longest are left, they hold left_k more each."""
    need = total = 0
    for k, (left, context) in enumerate(sorted(entries, key=lambda entry: -entry[0]), start=1):
        total += context
        need = max(need, left * k + total)
    return need


def plan_of(entries: list[Member], step: int) -> MemoryPlan:
    groups: dict[int, list[int]] = {}
    for left, context in entries:
        groups.setdefault(left + step, []).append(context - step)
    return MemoryPlan((end, len(bases), sum(bases)) for end, bases in groups.items())


@given(members, candidates, st.integers(0, 1000))
def test_need_equals_the_obvious_one_as_candidates_join(
    running: list[Member], joining: list[Member], step: int
) -> None:
    plan, entries = plan_of(running, step), list(running)
    for left, context in joining:
        entries.append((left, context))
        assert plan.need_with(left + step, context - step) == obvious_need(entries)
        plan.add(left + step, context - step)


@given(members, st.tuples(st.integers(0, 60), st.integers(1, 300)), st.integers(1, 30))
def test_need_of_a_candidate_falls_by_at_most_one_a_step(
    running: list[Member], candidate: Member, steps: int
) -> None:
    """On this rests how long the simulator dares not to ask the queue again."""
    left, context = candidate
    running = [(remaining + steps, tokens) for remaining, tokens in running]
    before = obvious_need([*running, candidate])
    later = [(remaining - steps, tokens + steps) for remaining, tokens in running]
    assert obvious_need([*later, (left, context)]) >= before - steps


def test_hand_worked() -> None:
    # Two running: 10 and 4 tokens left, contexts 100 and 50. A third: 6 left, context 20.
    plan = plan_of([(10, 100), (4, 50)], step=0)
    # k=1: 10+100=110; k=2: 6*2+120=132; k=3: 4*3+170=182
    assert plan.need_with(6, 20) == 182
