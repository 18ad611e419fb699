"""The artifact's admission test: will the batch fit into the KV cache until it has drained?

Every running request holds its context now and grows by a token a step until it ends. Sorted by
remaining output, longest first, the memory needed when the k longest are left is

    need_k = left_k * k + sum of the contexts of the first k          (need = max over k)

While nobody joins or leaves, left_k falls by 1 and every context grows by 1 a step, so need_k
stays what it is. Requests are therefore kept as of step 0: `end` = left + step and `base` =
context - step. Of requests with the same end only the last can need most, so they count as one
group; one candidate is tested in O(log groups) with prefix and suffix maxima.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from operator import mul, sub


class MemoryPlan:
    """The need of a batch, and of the batch with one more request."""

    def __init__(self, groups: Iterable[tuple[int, int, int]]) -> None:
        """groups: (end, number of requests, sum of their bases), each end once."""
        ordered = sorted(groups, reverse=True)
        self._keys = [-end for end, _, _ in ordered]
        self._sizes = [count for _, count, _ in ordered]
        self._bases = [bases for _, _, bases in ordered]
        self._prepare()

    def _prepare(self) -> None:
        """Sums and maxima over the first groups and over the last; called for every admission."""
        self._counts = list(accumulate(self._sizes, initial=0))
        self._sums = list(accumulate(self._bases, initial=0))
        ends = map(mul, self._keys, self._counts[1:])
        needs = list(map(sub, self._sums[1:], ends))  # of the first k requests
        self._before = list(accumulate(needs, max, initial=0))
        pushed = list(map(sub, needs, self._keys))  # the same with one more, its base aside
        pushed.reverse()
        self._after = list(accumulate(pushed, max, initial=-(1 << 62)))
        self._after.reverse()

    def need_with(self, end: int, base: int) -> int:
        """Tokens that the batch needs if a request of this end and base joins."""
        i = bisect_right(self._keys, -end)
        own = end * (self._counts[i] + 1) + self._sums[i] + base
        return max(self._before[i], own, self._after[i] + base)

    def add(self, end: int, base: int) -> None:
        """The request joins."""
        i = bisect_right(self._keys, -end)
        if i and self._keys[i - 1] == -end:
            self._sizes[i - 1] += 1
            self._bases[i - 1] += base
        else:
            self._keys.insert(i, -end)
            self._sizes.insert(i, 1)
            self._bases.insert(i, base)
        self._prepare()
