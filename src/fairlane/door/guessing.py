"""Whether an API key that was made elsewhere could be guessed: is it random, and long enough?

Nothing can prove that a key is random, but what people think up can be told in fewer bits than its
characters could hold: it repeats itself, goes on along the alphabet or a keyboard, or is made of
words. A key is refused when a model of these tells it in so many bits fewer that almost no random
key can be. How few: a model that is a distribution gives n bits or less to at most 2**n strings
(Kraft's inequality), so of random strings over an alphabet it saves s bits in at most 2**-s. From
128 bits on at least 30 are asked for: fewer than one in 10**9 of 32 hexadecimal digits.

The model tells the letters and digits one by one, or as a run of the one before, or as a copy of
what stands before or among what is well known (Lempel and Ziv). One by one they are any of the
alphabet; or else (1 bit says which) English, by the letter before. Capitals are told apart.
"""

import math
import re
from collections.abc import Callable
from functools import cache

SHORTEST = 20
LEAST_BITS = 80
_SAVED_OF_128 = 30
_SAVED = 1 / 6
_SINGLE, _COPY, _RUN = -math.log2(30 / 32), -math.log2(1 / 32), -math.log2(1 / 32)
_FEWEST = 3  # characters of a copy or run
_LOWEST = "0123456789abcdefghijklmnopqrstuvwxyz"
_ROWS = "1234567890qwertyuiopasdfghjklzxcvbnm"  # of a keyboard
_COLUMNS = ("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik", "9ol", "0p")
_ORDERS = (
    _LOWEST,
    _ROWS,
    "".join(_COLUMNS),
    "".join(column[::-1] for column in _COLUMNS),
    "".join(2 * c for c in _LOWEST),  # 0011223344
    "".join(f"{i:02x}" for i in range(100)),  # 00010203
    "02468ace13579bdf",
)
_WORDS = """
access admin again alpha battery brown change client company correct demo development dummy example
fairlane gateway hello horse internal jumps lazy letmein local long master monkey never operator
over passphrase password please private production public quick random secret secure server service
staging staple super system tenant test thing this token unknown very welcome with world your api
key user
"""
_KNOWN = "\n".join((*_ORDERS, *(order[::-1] for order in _ORDERS), *_WORDS.split()))
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# How unlikely each letter (a to z) is after each letter (a row each), in half bits, 0 to z: of
# English as Python's and this project's documentation have it, across the ends of words.
_ENGLISH = """
    la8alfcnaoe695kbm675cchfbn 8kdh4gpq98m5hj9eq7bg6ikq6p 6lci5gk69p98ii5fnbf69jjpgr
    89bb5bfe5kjadc7clc97adbmco 9d87a9cf9nja97bad578eccado 8fbe89ig5phbee5co8a58hfnar
    8dbd5cd87miac89bk8877fcnfk 5hdg2gkj6okgff7fndd9ghgsgp bb8ba9bqitf9a47dnb66mcrgvf
    bhei1jgjejjjhfbgjibg6jjjjj 7bcf3bfi6mjcd9acnd78bfbnbn 6eda5bjh5pk7ee7cod999eet8s
    59be4fii7pneae77le9b9heqeo 8d867c6g9mgcdd7cld75bcepbn caa9d7dhcmeb95b9q5a77bamim
    6kgg4ijf9rm7gh79p5c7akhqaq eggjhhjggjjhghjjjcfj0jcjhj 7ebb4dbf6ocaaa7cna88cddmbr
    8d9c5bfa6mgbcb8akd758gbpco 8ebe5di46okcef7dn999bhbpbr a99c8fcfaom776fap665fiepos
    4kik2ion6ooedkbioihbkkjono 5ifi7fj54olegb6gm9bcjhephn 7g6f6dif7nnh9fc4jgb6jgfgcl
    8a9babfb8kfca948ka77ddaneh 6fhh1dhh7hhhefbghhcfhhhede
"""
_AFTER = dict(zip(_LETTERS, _ENGLISH.split(), strict=True))


def too_short(key: str) -> bool:
    """Whether a key, however random, has under 20 characters or could not hold 80 bits."""
    signs = _signs(key)
    return len(key) < SHORTEST or _most_bits(signs) < LEAST_BITS


def looks_thought_up(key: str) -> bool:
    """Whether the model saves more bits than a random key could hope for; see the module.

    Of the key, and of what stands after its last "-", "_", "." or ":" if that is long enough alone:
    what stands before a random key makes it no easier to guess.
    """
    last = re.split("[-_.:]", key)[-1]
    return _saves_much(key) and (too_short(last) or _saves_much(last))


def _saves_much(key: str) -> bool:
    signs = _signs(key)
    most = _most_bits(signs)
    needed = max(_SAVED_OF_128 * min(1.0, most / 128), _SAVED * most)
    return most - _told_in(signs) >= needed


def _signs(key: str) -> str:
    return "".join(c for c in key if c.isascii() and c.isalnum())


def _most_bits(signs: str) -> float:
    """What they hold where they are random, of the least usual alphabet that has them all."""
    if signs not in (signs.lower(), signs.upper()):
        size = 62
    elif signs.isdigit():
        size = 10
    else:
        size = 16 if set(signs.lower()) <= set(_LOWEST[:16]) else 36
    return len(signs) * math.log2(size)


def _told_in(signs: str) -> float:
    """In how many bits the model tells them."""
    text = signs.lower()
    plain = _most_bits(text) / max(1, len(text))
    in_words = _switches([c.isdigit() for c in text]) + _copied(text, _english)
    mixed = signs not in (text, signs.upper())
    capitals = _switches([c.isupper() for c in signs if c.isalpha()]) if mixed else 0.0
    return 1 + capitals + min(in_words, _copied(text, lambda before, c: plain))


def _switches(states: list[bool]) -> float:
    """The bits of a row of yes and no, by how often each came after each (Krichevsky, Trofimov)."""
    counts = {False: [0.5, 0.5], True: [0.5, 0.5]}
    bits, before = 0.0, False
    for state in states:
        bits -= math.log2(counts[before][state] / sum(counts[before]))
        counts[before][state] += 1
        before = state
    return bits


@cache
def _english(before: str, c: str) -> float:
    """The bits of a digit, or of a letter after another character ("" before the first)."""
    if c.isdigit():
        return math.log2(10)
    if not before.isalpha():
        return math.log2(26)
    chances = [2.0 ** (-int(bits, 36) / 2) for bits in _AFTER[before]]
    return -math.log2(chances[_LETTERS.index(c)] / sum(chances))


def _copied(text: str, single: Callable[[str, str], float]) -> float:
    """The fewest bits for a text of copies and characters; `single`: those of one after another."""
    bits = [0.0, *[math.inf] * len(text)]
    for i, c in enumerate(text):
        before = text[max(0, i - 1) : i]
        bits[i + 1] = min(bits[i + 1], bits[i] + _SINGLE + single(before, c))
        for length in range(_FEWEST, len(text) - i + 1):
            same = text[i : i + length]
            if same == length * before:
                start = _RUN
            elif same in _KNOWN or same in text[: i + length - 1]:
                start = _COPY + math.log2(len(_KNOWN) + i)
            else:
                break
            how_long = 2 * math.floor(math.log2(length - _FEWEST + 1)) + 1  # Elias' gamma code
            bits[i + length] = min(bits[i + length], bits[i] + start + how_long)
    return bits[-1]
