"""Text and its tokens: a token is a word of up to six letters, or a piece of a longer one.

No model is there, so prompts are only counted and answers are words drawn from a list. How many is
drawn too, where the request leaves it open. Both follow from a seed and from what was asked, not
from when: the same question has the same answer.
"""

import json
import math
import re
from hashlib import blake2b
from zlib import crc32

_PIECE = re.compile(r"\s?(?:[!-~]{1,6}|[^\s!-~])|\s")
_VOCABULARY = 32_000
WORDS = (
    "the", "night", "ferry", "left", "before", "anyone", "had", "asked", "where", "it", "went",
    "and", "so", "a", "clerk", "wrote", "down", "what", "he", "saw", "three", "lamps", "one", "red",
    "over", "still", "water", "later", "some", "said", "that", "two", "were", "green", "but", "no",
    "page", "of", "his", "book", "agreed", "with", "them", "as", "far", "we", "can", "tell", "from",
    "this", "side",
)  # fmt: skip
FIRST = tuple(json.dumps(word).encode() for word in WORDS)  # as JSON: of an answer's first token
NEXT = tuple(json.dumps(" " + word).encode() for word in WORDS)


def pieces(text: str) -> list[str]:
    """The tokens of a text; joined, they are the text."""
    return _PIECE.findall(text)


def count_tokens(text: str) -> int:
    """How many tokens a text has."""
    return sum(1 for _ in _PIECE.finditer(text))


def token_id(piece: str) -> int:
    """A number for a token; others may have it too."""
    return crc32(piece.encode(errors="surrogatepass")) % _VOCABULARY


def words(start: int, count: int) -> str:
    """An answer of so many tokens."""
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(count))


def draw(seed: int, asked: bytes, mean: float) -> tuple[int, int]:
    """(tokens until the answer ends by itself, index of its first word), from what was asked.

    The number is geometric with this mean.
    """
    digest = blake2b(b"%d %b" % (seed, asked), digest_size=16).digest()
    uniform = (int.from_bytes(digest[:8]) + 0.5) / 2**64
    length = 1 if mean <= 1 else math.ceil(math.log(uniform) / math.log1p(-1 / mean))
    return max(1, length), int.from_bytes(digest[8:]) % len(WORDS)
