"""The artifact's admission test: will the batch fit into the KV cache until it has drained?

Every running request holds its context now and grows by a token a step until it ends. Sorted by
remaining output, longest first, the memory needed when the k longest are left is

    need_k = left_k * k + sum of the contexts of the first k          (need = max over k)

While nobody joins or leaves, left_k falls by 1 and every context grows by 1 a step, so need_k
stays what it is. Requests are therefore kept as of step 0: `end` = left + step and `base` =
context - step, and one candidate is tested in O(log batch) with prefix and suffix maxima.
"""

from bisect import bisect_right
from itertools import accumulate


class MemoryPlan:
    """The need of a batch, and of the batch with one more request."""

    def __init__(self, members: list[tuple[int, int]]) -> None:
        """members: (end, base) of each request; see the module's text."""
        self._members = sorted((-end, base) for end, base in members)
        self._prepare()

    def _prepare(self) -> None:
        members = self._members
        self._keys = [key for key, _ in members]
        self._sums = list(accumulate((base for _, base in members), initial=0))
        needs = [
            total - key * k
            for k, (key, total) in enumerate(zip(self._keys, self._sums[1:], strict=True), 1)
        ]
        self._before = list(accumulate(needs, max, initial=0))
        pushed = [need - key for need, key in zip(needs, self._keys, strict=True)]
        self._after = list(accumulate(reversed(pushed), max, initial=-(1 << 62)))[::-1]

    def need_with(self, end: int, base: int) -> int:
        """Tokens that the batch needs if a request of this end and base joins."""
        k = bisect_right(self._keys, -end)
        own = end * (k + 1) + self._sums[k] + base
        return max(self._before[k], own, self._after[k] + base)

    def add(self, end: int, base: int) -> None:
        """The request joins."""
        self._members.insert(bisect_right(self._keys, -end), (-end, base))
        self._prepare()
