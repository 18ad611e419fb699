"""How many tokens a prompt and its answer are likely to have, before the engine says so.

A token is so many characters, and how many differs by language and by kind of text (four of
English, three of JSON, one and a half of base64). So the ratio is learned for each client and model
from what the engine counted, and begins at four: a guess that is too low is settled later, one that
is too high makes its client wait meanwhile. Token ids are counted as they are. An answer is
expected to be as long as its client's answers of this model were lately.
"""

from collections import OrderedDict

_FIRST = 4.0  # characters a token
_USUAL_OUTPUT = 256  # tokens of an answer, before any is known
_LEARNS = 0.2  # what the latest request changes of an average
_KEPT = 100_000
_LEAST, _MOST = 0.25, 64.0  # what a client can teach


class Estimates:
    """Averages by client and model; those of the longest silent are forgotten."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._ratios = _Averages(kept)
        self._outputs = _Averages(kept)

    def tokens(self, client: str, model: str, characters: int) -> int:
        """Of a text of so many characters."""
        return round(characters / self._ratios.get((client, model), _FIRST))

    def learn(self, client: str, model: str, characters: int, tokens: int) -> None:
        """A text of so many characters had so many tokens."""
        if tokens >= 1 and characters >= 1:
            ratio = min(max(characters / tokens, _LEAST), _MOST)
            self._ratios.learn((client, model), ratio)

    def output(self, client: str, model: str, most: int | None) -> int:
        """Of an answer that may have so many at most."""
        usual = max(1, round(self._outputs.get((client, model), _USUAL_OUTPUT)))
        return usual if most is None else min(usual, most)

    def learn_output(self, client: str, model: str, tokens: int) -> None:
        """An answer had so many tokens."""
        self._outputs.learn((client, model), float(tokens))


class _Averages:
    """Moving averages, the latest counting most."""

    def __init__(self, kept: int) -> None:
        self._values: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._kept = kept

    def get(self, key: tuple[str, str], otherwise: float) -> float:
        return self._values.get(key, otherwise)

    def learn(self, key: tuple[str, str], value: float) -> None:
        before = self._values.pop(key, value)
        self._values[key] = before + _LEARNS * (value - before)
        if len(self._values) > self._kept:
            self._values.popitem(last=False)
