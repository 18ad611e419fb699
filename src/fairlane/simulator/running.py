"""The running batch of slora.py's loop, kept so that a decode step changes nothing in it.

As in memory.py, everything is as of decode step 0: a request's `base` is its context less the
steps so far, its `end` the step in which it gets its last token.
"""

from collections import Counter
from heapq import heappop, heappush
from math import inf

from fairlane.simulator.memory import MemoryPlan


class Running(dict[int, tuple[str, int, int]]):
    """By position: a request's client, base and end. context: the sum of bases, longest: their max.

    Only `add` and `remove` change it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.context = 0
        self.longest = 0
        self.clients: Counter[str] = Counter()
        self._ends: dict[int, list[int]] = {}  # decode step -> who ends in it
        self._bases: dict[int, int] = {}  # the sum of their bases
        self._end_steps: list[int] = []  # a heap of these steps, and of some that were emptied
        self._plan: MemoryPlan | None = None

    @property
    def next_end(self) -> float:
        """The step in which the next request ends."""
        while self._end_steps and self._end_steps[0] not in self._ends:
            heappop(self._end_steps)
        return self._end_steps[0] if self._end_steps else inf

    def ending(self, step: int) -> list[int]:
        """Who ends in a step."""
        return list(self._ends.get(step, ()))

    def add(self, position: int, client: str, base: int, end: int) -> None:
        """A request joins."""
        self.longest = max(base, self.longest) if self else base
        self[position] = client, base, end
        self.context += base
        self.clients[client] += 1
        if end not in self._ends:
            self._ends[end] = []
            self._bases[end] = 0
            heappush(self._end_steps, end)
        self._ends[end].append(position)
        self._bases[end] += base
        self._plan = None

    def remove(self, position: int) -> None:
        """A request leaves."""
        client, base, end = self.pop(position)
        self.context -= base
        if base == self.longest:
            self.longest = max((base for _, base, _ in self.values()), default=0)
        self.clients[client] -= 1
        if not self.clients[client]:
            del self.clients[client]
        self._ends[end].remove(position)
        self._bases[end] -= base
        if not self._ends[end]:
            del self._ends[end], self._bases[end]
        self._plan = None

    def plan(self) -> MemoryPlan:
        """The memory plan of a batch in which nobody waits for its last token any more."""
        if self._plan is None:
            bases = self._bases
            self._plan = MemoryPlan(
                [(end - 1, len(who), bases[end]) for end, who in self._ends.items()]
            )
        return self._plan

    def forget_plan(self) -> None:
        """Somebody was added to the plan on trial."""
        self._plan = None
