"""With whom a server's schedulers share their charges: its part of the configuration.

    [cluster]
    hub = "redis://10.0.0.5:6379/0"     # or rediss:// for TLS; Redis from 6 on, or Valkey; or
                                        # "ray": an actor of the Ray cluster that all run in
    pool = "llama"                      # schedulers that share are of one pool
    namespace = "production"            # pools of different namespaces never meet
    password_env = "HUB_PASSWORD"       # the environment's variable with the hub's password
    ca = "hub-ca.pem"                   # certificates to trust, for rediss; beside this file
    every_s = 0.2                       # how often charges are exchanged
    guard = 0.05                        # the part of a server's work that goes by its own charges
    max_debt = 50000                    # service per weight: the most that a client may be behind
    shared_limits = false               # limits hold over all servers of the pool together
    same_upstreams = false              # gateways: they stand before the same upstreams

Without a hub the schedulers of one server (the ranks of an engine) share with each other alone;
with `ranks = false`, which is then all that there is to say, not even they do.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fairlane.cluster.hub import Hub
from fairlane.core.errors import FairlaneError
from fairlane.core.options import Positive, Range
from fairlane.validation import checked

RAY = "ray"
_OF_A_HUB = ("pool", "namespace", "password_env", "ca", "shared_limits", "same_upstreams")
_OF_UPSTREAMS_OF_ITS_OWN = ("guard", "max_debt")
_OF_WHO_SHARES = ("every_s", "guard", "max_debt")


@dataclass(frozen=True, slots=True)
class Cluster:
    """[cluster]: see the module. `ca` is a whole path once it is parsed."""

    hub: str | None = None
    pool: str = ""
    namespace: str = "default"
    password_env: str | None = None
    ca: str | None = None
    every_s: Annotated[float, Range(ge=0.01, le=60)] = 0.2
    guard: Annotated[float, Range(ge=0, lt=1)] = 0.05
    max_debt: Positive | None = None
    shared_limits: bool = False
    same_upstreams: bool = False
    ranks: bool = True

    @classmethod
    def parse(cls, written: Mapping[str, Any], folder: Path) -> "Cluster":
        """From the table; `ca` is relative to `folder`. Raises FairlaneError that names the key."""
        made = cls(**checked(cls, written, what="key"))
        if made.hub is None:
            made._check_alone(written)
            return made
        if not made.ranks:
            raise FairlaneError("ranks = false: all who meet at a hub share; remove one of them")
        made._check_hub(made.hub)
        for key in _OF_UPSTREAMS_OF_ITS_OWN if made.same_upstreams else ():
            if key in written:
                raise FairlaneError(
                    f"{key} is for upstreams that no other gateway has; with same_upstreams there "
                    "is one queue, so remove it"
                )
        if made.ca is None:
            return made
        if not made.hub.startswith("rediss:"):
            raise FairlaneError("ca is for a hub with TLS (rediss://); remove it")
        return replace(made, ca=str(folder / made.ca))

    def connect(self, part: str = "") -> Hub | None:
        """The hub, which connects when it is first used; None where there is none.

        part: of the pool, which shares by itself, such as one of several models. Raises
        FairlaneError where it cannot be: there is no password, file or client of the hub.
        """
        if self.hub is None:
            return None
        pool = f"{self.pool}/{part}" if part else self.pool
        if self.hub == RAY:
            from fairlane.cluster.ray import RayHub  # an extra, which others do without

            return RayHub(pool=pool, namespace=self.namespace)
        from fairlane.cluster.redis import RedisHub  # likewise

        if self.ca is not None and not Path(self.ca).is_file():
            raise FairlaneError(f"[cluster] ca: there is no file {self.ca}")
        password = self._password()
        return RedisHub(
            self.hub, pool=pool, namespace=self.namespace, password=password, ca=self.ca
        )

    def _check_alone(self, written: Mapping[str, Any]) -> None:
        """Raise FairlaneError for what cannot act where there is no hub."""
        for key in written:
            if key in _OF_A_HUB:
                raise FairlaneError(f"{key} is for a hub, and there is none; name one by hub")
            if key in _OF_WHO_SHARES and not self.ranks:
                raise FairlaneError(f"{key} is for who shares, and ranks = false; remove one")

    def _check_hub(self, hub: str) -> None:
        """Raise FairlaneError for a hub that cannot be, or names that cannot."""
        if hub != RAY:
            _check_address(hub, has_password=self.password_env is not None)
        elif self.password_env is not None:
            raise FairlaneError("password_env is for a hub on a server, not for ray; remove it")
        for key in ("pool", "namespace"):
            name = getattr(self, key)
            if not name or not name.isprintable():
                raise FairlaneError(f"{key} must be a name of printable characters, not {name!r}")

    def _password(self) -> str | None:
        if self.password_env is None:
            return None
        password = os.environ.get(self.password_env, "")
        if not password:
            raise FairlaneError(
                f"[cluster] password_env: the environment has no {self.password_env}"
            )
        return password


def _check_address(url: str, *, has_password: bool) -> None:
    """Raise FairlaneError, which shows no password, for what is no address of a hub."""
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme in ("redis", "rediss")
            and parts.hostname
            and parts.port != 0
            and (parts.path in ("", "/") or parts.path[1:].isdecimal())
        )
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment:
        raise FairlaneError(
            "hub must be an address such as redis://HOST:6379/0, or rediss://, or the word ray"
        )
    if parts.password and has_password:
        raise FairlaneError("hub holds a password, and password_env names another; remove one")
