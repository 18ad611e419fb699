"""The last ten minutes of everyone, in memory that does not grow: one number a period and kind.

A client takes a place when it is first seen to be active. Where all places are taken, a newcomer
gets that of whoever was not active for longest; while all are active, it has no history.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlane.dashboard.rows import Row

KINDS = ("rate", "share", "queued", "running", "ttft_p50", "ttft_p99")
_IDLE = (0.0, 0.0, 0.0, 0.0, np.nan, np.nan)
_WHOLE = ("total", "now", "bound")
_FIRST = 64  # places that are made at once; then twice as many, and so on
_NOTHING: Row = {}


class History:
    """See the module. points: periods that are kept. most: places, of some 14 kB each."""

    def __init__(self, points: int = 600, most: int = 1000) -> None:
        self._points, self._most = points, most
        self._times: NDArray[np.float64] = np.full(points, np.nan)
        self._whole = np.full((len(_WHOLE), points), np.nan, np.float32)
        self._data = np.full((0, len(KINDS), points), np.nan, np.float32)
        self._places: dict[str, int] = {}
        self._active: dict[str, int] = {}  # by client that has a place: when it last was
        self._count = 0

    def add(
        self, t: float, rows: Mapping[str, Row], now: float | None, bound: float | None
    ) -> None:
        """One period. t: seconds of the wall clock. now, bound: of the largest difference."""
        at = self._count % self._points
        self._count += 1
        self._take_places([path for path, row in rows.items() if _is_active(row)])
        self._times[at] = t
        total = sum(row["rate"] for row in rows.values() if row["parent"] is None)
        self._whole[:, at] = [total, _or_nan(now), _or_nan(bound)]
        self._data[:, :, at] = _IDLE
        if self._places:
            values = [_values(rows.get(path, _NOTHING)) for path in self._places]
            self._data[list(self._places.values()), :, at] = values

    def clear(self) -> None:
        """Forget it all."""
        self.__init__(self._points, self._most)  # type: ignore[misc]

    def most_served(self, count: int) -> dict[str, Any]:
        """Of the whole, and of those who were served most, ready for JSON."""
        order = self._order()
        sums = np.nansum(self._data[:, 0, :], axis=1) if len(self._data) else np.zeros(0)
        paths = [path for path, place in self._places.items() if sums[place] > 0]
        paths.sort(key=lambda path: (-sums[self._places[path]], path))
        told = {"t": _listed(self._times[order])}
        told |= {name: _listed(self._whole[i, order]) for i, name in enumerate(_WHOLE)}
        rates = {p: _listed(self._data[self._places[p], 0, order]) for p in paths[:count]}
        return {**told, "clients": rates}

    def of(self, path: str) -> dict[str, Any]:
        """Of one client; None where nothing is known."""
        order = self._order()
        place = self._places.get(path)
        nothing = np.full((len(KINDS), len(order)), np.nan)
        kept = nothing if place is None else self._data[place][:, order]
        return {"t": _listed(self._times[order])} | {
            name: _listed(kept[i]) for i, name in enumerate(KINDS)
        }

    # -- inside ------------------------------------------------------------------------------

    def _order(self) -> NDArray[np.intp]:
        """Where the points are, the oldest first."""
        kept = min(self._count, self._points)
        return np.arange(self._count - kept, self._count) % self._points

    def _take_places(self, active: Sequence[str]) -> None:
        for path in active:
            if path in self._places:
                self._active[path] = self._count
        new = [path for path in active if path not in self._places][: self._most]
        lacking = len(self._places) + len(new) - self._most
        if lacking > 0:
            idle = sorted(self._active.items(), key=lambda item: item[1])
            free = [path for path, last in idle[:lacking] if last < self._count]
            new = new[: len(new) - lacking + len(free)]
        else:
            free = []
        taken = [self._places.pop(path) for path in free]
        for path in free:
            del self._active[path]
        for path in new:
            place = taken.pop() if taken else len(self._places)
            self._make_room(place)
            self._data[place] = np.nan
            self._places[path], self._active[path] = place, self._count

    def _make_room(self, place: int) -> None:
        if place >= len(self._data):
            size = min(max(_FIRST, 2 * len(self._data)), self._most)
            more = np.full((size - len(self._data), *self._data.shape[1:]), np.nan, np.float32)
            self._data = np.concatenate([self._data, more])


def _is_active(row: Row) -> bool:
    return bool(row["rate"] or row["queued"] or row["running"] or row["ttft_p50"] is not None)


def _values(row: Row) -> list[float]:
    return [_or_nan(row.get(kind, idle)) for kind, idle in zip(KINDS, _IDLE, strict=True)]


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _listed(values: NDArray[Any]) -> list[float | None]:
    return [None if value != value else round(value, 4) for value in values.tolist()]
