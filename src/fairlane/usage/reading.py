"""Reports of usage: rows by tenant, model and time, as people and programs ask for them."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.usage.rows import DAY_HOURS, FIELDS, HOUR_S

if TYPE_CHECKING:
    from fairlane.usage.store import Store

BY = ("tenant", "model", "hour", "day", "month")
_TIMES = ("hour", "day", "month")
_WHOLE = frozenset({"requests", "input_tokens", "cached_tokens", "output_tokens"})
_AGO = re.compile(r"(\d{1,6})([hd])")
_FORMATS = ("%Y-%m-%dT%H", "%Y-%m-%dT%H:%M", "%Y-%m-%d", "%Y-%m")
Row = dict[str, Any]


class Where(NamedTuple):
    """Of what a report is. since, until: hours since 1970, the latter excluded. tenant: its path,
    None for everyone's; members: with those below it.
    """

    since: int | None = None
    until: int | None = None
    tenant: str | None = None
    members: bool = True


def parse_by(text: str) -> list[str]:
    """What a report is by: tenant,model,day. Raises FairlaneError."""
    found = [word.strip() for word in text.split(",")]
    for word in found:
        if word not in BY:
            raise UnknownNameError("part of a report", word, BY)
    if len(set(found)) < len(found):
        raise FairlaneError(f"by: {text!r} names something twice")
    if sum(word in _TIMES for word in found) > 1:
        raise FairlaneError(f"by: one of {', '.join(_TIMES)} at most")
    return found


def parse_time(text: str, now: datetime) -> int:
    """An hour since 1970, of a date of UTC (2026-01-31, 2026-01, 2026-01-31T15), `today`, or so
    many hours or days ago (12h, 30d). Raises FairlaneError.
    """
    if text == "today":
        return _hour(now.replace(hour=0))
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            unit = timedelta(hours=1) if ago[2] == "h" else timedelta(days=1)
            return _hour(now - int(ago[1]) * unit)
        for form in _FORMATS:
            if re.fullmatch(re.sub("%[a-zA-Z]", r"\\d+", form), text):
                return _hour(datetime.strptime(text, form).replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        pass
    raise FairlaneError(
        f"{text!r} is no time: write 2026-01-31, 2026-01, 2026-01-31T15, today, 12h or 30d"
    )


def report(store: "Store", by: Sequence[str], where: Where) -> list[Row]:
    """Rows by what `by` names, sorted by it; each with FIELDS and `refused`, by reason.

    Raises StoreError.
    """
    asked = ["day" if word == "month" else word for word in by]
    rows: dict[tuple[str, ...], Row] = {}

    def row_of(found: Mapping[str, Any]) -> Row:
        names = tuple(_shown(word, found) for word in by)
        named = dict(zip(by, names, strict=True))
        return rows.setdefault(names, {**named, **dict.fromkeys(FIELDS, 0), "refused": {}})

    for found in store.used(asked, where):
        if found["requests"] is not None:
            row = row_of(found)
            for name in FIELDS:
                row[name] += int(found[name]) if name in _WHOLE else float(found[name])
    for found in store.refused(asked, where):
        reasons = row_of(found)["refused"]
        reasons[found["reason"]] = reasons.get(found["reason"], 0) + int(found["count"])
    return [rows[names] for names in sorted(rows)]


def _shown(word: str, found: Mapping[str, Any]) -> str:
    if word == "hour":
        return f"{_time(found['hour']):%Y-%m-%dT%H}"
    if word in ("day", "month"):
        return f"{_time(found['day'] * DAY_HOURS):{'%Y-%m-%d' if word == 'day' else '%Y-%m'}}"
    return str(found[word])


def _hour(at: datetime) -> int:
    return int(at.timestamp() // HOUR_S)


def _time(hour: int) -> datetime:
    return datetime.fromtimestamp(int(hour) * HOUR_S, UTC)
