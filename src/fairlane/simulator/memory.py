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


class MemoryPlan:
    """The need of a batch, and of the batch with one more request."""

    def __init__(self, groups: Iterable[tuple[int, int, int]]) -> None:
        """groups: (end, number of requests, sum of their bases), each end once."""
        self._groups = sorted((-end, count, bases) for end, count, bases in groups)
        self._prepare()

    def _prepare(self) -> None:
        self._keys = []
        self._counts = [0]
        self._sums = [0]
        self._before = [0]  # the largest need of the first groups
        pushed = []  # what each group would need with one more request, its base aside
        k = total = worst = 0
        for key, count, bases in self._groups:
            k += count
            total += bases
            need = total - key * k
            worst = max(need, worst)
            self._keys.append(key)
            self._counts.append(k)
            self._sums.append(total)
            self._before.append(worst)
            pushed.append(need - key)
        self._after = list(accumulate(reversed(pushed), max, initial=-(1 << 62)))[::-1]

    def need_with(self, end: int, base: int) -> int:
        """Tokens that the batch needs if a request of this end and base joins."""
        i = bisect_right(self._keys, -end)
        own = end * (self._counts[i] + 1) + self._sums[i] + base
        return max(self._before[i], own, self._after[i] + base)

    def add(self, end: int, base: int) -> None:
        """The request joins."""
        i = bisect_right(self._keys, -end)
        if i and self._keys[i - 1] == -end:
            key, count, bases = self._groups[i - 1]
            self._groups[i - 1] = (key, count + 1, bases + base)
        else:
            self._groups.insert(i, (-end, 1, base))
        self._prepare()
