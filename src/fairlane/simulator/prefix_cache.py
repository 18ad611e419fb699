"""A prefix cache: which blocks of earlier prompts the server still has.

As in engines with automatic prefix caching: prompts are cut into blocks of tokens, a block is
known by all that stands before it, only whole blocks are shared, and the blocks used longest ago
are evicted first. Here a prompt's shared part is named by the workload (TracedRequest.prefix), so
a block is known by that name and its place.
"""

from collections import OrderedDict
from collections.abc import Sequence

from fairlane.core.errors import FairlaneError
from fairlane.core.types import Request
from fairlane.workloads.trace import TracedRequest


class PrefixCache:
    """Least recently used blocks of `block` tokens, at most `tokens` in all."""

    def __init__(self, requests: Sequence[TracedRequest], tokens: int, block: int = 16) -> None:
        """requests: of the workload, by position, which is the id that policies see."""
        if tokens < 0 or block < 1:
            raise FairlaneError(f"a prefix cache needs tokens >= 0, not {tokens}")
        if 0 < tokens < block:
            raise FairlaneError(
                f"a prefix cache of {tokens} tokens holds nothing: a block has {block}; 0 is none"
            )
        self._requests = requests
        self._block = block
        self._most = tokens // block
        self._blocks: OrderedDict[tuple[str, int], None] = OrderedDict()

    def prefixes_are_shared(self) -> bool:
        """Whether any block of a prompt stands in that of another request too."""
        prefixes = [r.prefix for r in self._requests if self._shared_blocks(r)]
        return len(set(prefixes)) < len(prefixes)

    def cached_tokens(self, request: Request) -> int:
        """Prompt tokens of a request that need no prefill; at least one token always does."""
        assert isinstance(request.id, int)
        traced = self._requests[request.id]
        found = 0
        for place in range(self._shared_blocks(traced)):
            if (traced.prefix, place) not in self._blocks:
                break
            found += 1
        return min(found * self._block, traced.prompt_len - 1)

    def keep(self, position: int) -> None:
        """The prompt of a request was prefilled: its shared blocks are the latest used."""
        traced = self._requests[position]
        for place in reversed(range(self._shared_blocks(traced))):  # evicted from the end
            key = traced.prefix, place
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def _shared_blocks(self, traced: TracedRequest) -> int:
        return min(traced.prefix_len, traced.prompt_len) // self._block if traced.prefix else 0
