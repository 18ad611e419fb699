"""What servers tell each other of where their clients stand, as text; see core/settling.py.

Levels mean something within one era of the hub alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from fairlane.core.settling import Standings
from fairlane.core.sharing import Standing

MOST_TOLD = 256  # clients of one scheduler


def written(schedulers: Sequence[Standings], era: str) -> dict[str, Any]:
    """Ready for JSON. Of more than MOST_TOLD clients some, the same ones everywhere."""
    return {"era": era, "schedulers": [_some(standings) for standings in schedulers]}


def read(text: str, era: str) -> list[dict[str, Standing]]:
    """What a server told of its schedulers; nothing where it told nothing, or of another era."""
    try:
        found = json.loads(text)["levels"]
        if found["era"] != era:
            return []
        return [standings(told) for told in found["schedulers"]]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return []


def standings(told: Mapping[str, Any]) -> dict[str, Standing]:
    """As somebody told them in JSON. Raises what values of wrong types raise."""
    return {
        str(client): tuple((finite(level), _weight(weight)) for level, weight in steps)
        for client, steps in told.items()
    }


def finite(value: Any) -> float:
    """A number that somebody told. Raises ValueError, TypeError."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a number that JSON has")
    return number


def _weight(value: Any) -> float:
    weight = finite(value)
    if weight <= 0:
        raise ValueError("a weight is above 0")
    return weight


def _some(told: Standings) -> Standings:
    if len(told) <= MOST_TOLD:
        return told
    names = sorted(told, key=lambda client: crc32(client.encode(errors="surrogatepass")))
    return {client: told[client] for client in names[:MOST_TOLD]}
