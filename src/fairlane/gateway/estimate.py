"""How many tokens a prompt is likely to have, before the engine says so.

A token is so many characters, and how many differs by language and by kind of text (four of
English, three of JSON, one and a half of base64). So the ratio is learned for each client and model
from what the engine counted, and begins at four: a guess that is too low is settled later, one that
is too high makes its client wait meanwhile. Token ids are counted as they are.
"""

from collections import OrderedDict

_FIRST = 4.0  # characters a token
_LEARNS = 0.2  # what the latest request changes of a ratio
_KEPT = 100_000
_LEAST, _MOST = 0.25, 64.0  # what a client can teach


class Estimates:
    """Characters a token, by client and model; those of the longest silent are forgotten."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._ratios: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._kept = kept

    def tokens(self, client: str, model: str, characters: int) -> int:
        """Of a text of so many characters."""
        return round(characters / self._ratios.get((client, model), _FIRST))

    def learn(self, client: str, model: str, characters: int, tokens: int) -> None:
        """A text of so many characters had so many tokens."""
        if tokens < 1 or characters < 1:
            return
        key = (client, model)
        ratio = min(max(characters / tokens, _LEAST), _MOST)
        before = self._ratios.pop(key, ratio)
        self._ratios[key] = before + _LEARNS * (ratio - before)
        if len(self._ratios) > self._kept:
            self._ratios.popitem(last=False)
