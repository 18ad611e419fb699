"""Whether usage is kept, and where: its part of the configuration.

[usage]
database = "usage.sqlite"       # a file beside this one, or postgresql://fairlane@db/fairlane
password_env = "USAGE_PASSWORD" # the environment's variable with the database's password
every_s = 5.0                   # how often it is written, and quotas are read
keep_days = 400                 # what is older is deleted
soft_weight = 0.1               # a weight is multiplied by it beyond a soft quota
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from fairlane.core.errors import FairlaneError
from fairlane.core.options import Range
from fairlane.validation import checked

if TYPE_CHECKING:
    from fairlane.usage.store import Store


@dataclass(frozen=True, slots=True)
class Keeping:
    """[usage]: see the module. `database` is a whole path, or an address, once it is parsed."""

    database: str | None = None
    password_env: str | None = None
    every_s: Annotated[float, Range(ge=0.1, le=60)] = 5.0
    keep_days: Annotated[int, Range(ge=32, le=36500)] = 400  # quotas need the month
    soft_weight: Annotated[float, Range(ge=1e-3, le=1)] = 0.1

    @property
    def on(self) -> bool:
        """Whether usage is kept."""
        return self.database is not None

    @classmethod
    def parse(cls, written: Mapping[str, Any], folder: Path) -> "Keeping":
        """From the table; files are relative to `folder`. Raises FairlaneError, naming the key."""
        made = cls(**checked(cls, written, what="key"))
        if made.database is None:
            if written:
                raise FairlaneError('database is missing: "usage.sqlite", or postgresql://...')
            return made
        if "://" in made.database:
            check_address(made.database, has_password=made.password_env is not None)
            return made
        if made.password_env is not None:
            raise FairlaneError("password_env is for a database on a server; remove it")
        path = (folder / made.database).absolute()
        if not path.parent.is_dir():
            raise FairlaneError(f"database: there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise FairlaneError(f"database: {path} cannot be written by this user")
        return replace(made, database=str(path))

    def store(self, *, makes: bool = True) -> "Store":
        """The database, which connects when it is first used; see Store. Raises FairlaneError."""
        from fairlane.usage.store import Store  # an extra, which others do without

        assert self.database is not None
        return Store(self.database, self._password(), makes=makes)

    def _password(self) -> str | None:
        if self.password_env is None:
            return None
        password = os.environ.get(self.password_env, "")
        if not password:
            raise FairlaneError(f"[usage] password_env: the environment has no {self.password_env}")
        return password


def check_address(url: str, *, has_password: bool = False) -> None:
    """Raise FairlaneError, which shows no password, for what is no address of a database."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("postgresql", "postgres") and len(parts.path) > 1
    except ValueError:
        good = False
    if not good:
        raise FairlaneError(
            "database must be a file, or an address such as postgresql://USER@HOST/DATABASE"
        )
    if parts.password and has_password:
        raise FairlaneError("database holds a password, and password_env names another; remove one")
