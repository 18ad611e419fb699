"""Counters as plain values that survive a restart: a tree of lists and numbers, ready for JSON."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeAlias

from fairlane.core.counters import Common, Idle, Level, Node
from fairlane.core.errors import FairlaneError

Saved: TypeAlias = dict[str, Any]
"""start: where unknown members begin; last: the counter of who left the queue last, or None;
members: [name, counter, members of a group or None], in the order in which they were known."""


def save_level(level: Level, prepaid: Mapping[Node, float]) -> Saved:
    """A level and all below it; live members without what they prepaid."""
    known: dict[str, Idle] = {**level.old, **level.young}
    for name, node in level.children.items():
        counter = node.counter - prepaid.get(node, 0.0) / node.weight
        known[name] = (counter, node.seq, node.inner, 0.0)
    members = sorted(known.items(), key=lambda member: member[1][1])
    last = level.last
    return {
        "start": level.start,
        "last": None if last is None else last.counter - prepaid.get(last, 0.0) / last.weight,
        "members": [
            [name, counter, None if inner is None else save_level(inner, prepaid)]
            for name, (counter, _, inner, _) in members
        ],
    }


def load_level(saved: Saved, common: Common) -> Level:
    """The level that was saved, all its members idle. Raises FairlaneError when it is malformed."""
    level = Level(common)
    try:
        level.start = _finite(saved["start"])
        for name, counter, inner in saved["members"]:
            level.seq += 1
            below = None if inner is None else load_level(inner, common)
            level.young[str(name)] = (_finite(counter), level.seq, below, 0.0)
        if saved["last"] is not None:
            level.last = Node("", None, level, 1.0, (_finite(saved["last"]), 0, None, 0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise FairlaneError(f"these are no counters that were saved: {error!r}") from error
    return level


def _finite(value: Any) -> float:
    if not isfinite(value):
        raise ValueError(f"{value} is not a counter")
    return float(value)
