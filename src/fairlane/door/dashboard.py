"""The page that shows a server to who looks: its part of the configuration.

    [dashboard]
    on = true                       # GET /fairlane/
    viewers = 50                    # who may look at once: so many operators, so many others
    changes = false                 # operators may change weights, limits and keys there
    audit = "changes.jsonl"         # where each change is written, beside this file
    origin = "https://llm.example"  # what browsers call the server, if a proxy renames it

What is served is in fairlane.dashboard; hosts read this file without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fairlane.core.errors import FairlaneError
from fairlane.core.options import Range
from fairlane.door.access import Access
from fairlane.validation import checked


@dataclass(frozen=True, slots=True)
class DashboardOptions:
    """[dashboard]: see the module. `audit` is a whole path once it is parsed."""

    on: bool = True
    viewers: Annotated[int, Range(ge=1, le=10_000)] = 50
    changes: bool = False
    audit: str = "changes.jsonl"
    origin: str | None = None

    @classmethod
    def parse(cls, written: Mapping[str, Any], folder: Path, access: Access) -> "DashboardOptions":
        """From the table; `audit` is relative to `folder`. Raises FairlaneError."""
        made = cls(**checked(cls, written, what="key"))
        if not made.on and len(written) > 1:
            raise FairlaneError("on is false, and the other keys are for a page: remove them")
        if made.changes and access.store is None:
            raise FairlaneError(
                "changes are made in a file of tenants, and there is none: name one by tenants"
            )
        for key in ("audit", "origin"):
            if key in written and not made.changes:
                raise FairlaneError(f"{key} is for changes = true; remove it")
        if made.origin is not None:
            _check_origin(made.origin)
        if not made.audit:
            raise FairlaneError("audit must be the name of a file")
        return replace(made, audit=str(folder / made.audit))


def _check_origin(origin: str) -> None:
    """Raise FairlaneError for what browsers do not send so."""
    parts = urlsplit(origin)
    if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}":
        raise FairlaneError('origin must be as browsers send it: "https://llm.example.com"')
