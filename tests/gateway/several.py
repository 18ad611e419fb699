"""Several gateways that share by a hub, and clients that keep them busy."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.cluster.servers import PASSWORD, Server
from tests.engines.identity.site import Town
from tests.gateway.crowd import Crowd
from tests.gateway.site import Site, until

WORKERS = 32  # requests that a client has under way at a gateway


def in_pool(hub: Server, **more: Any) -> dict[str, Any]:
    """[cluster], of gateways that share by a hub."""
    address = hub.url.replace("://", f"://:{PASSWORD.replace(' ', '%20')}@")
    return {"hub": address, "pool": "p", "every_s": 0.05, **more}


def town(folder: Path) -> Town:
    """a, of weight 4, and b."""
    made = Town(folder)
    made.add("a", weight=4.0)
    made.add("b")
    return made


def crowds(life: ExitStack, town: Town, clients: Mapping[Site, str]) -> list[Crowd]:
    """Clients that wait at these gateways all the time: one letter each."""
    return [
        life.enter_context(Crowd(site, {c: (town.keys[c], WORKERS) for c in names}))
        for site, names in clients.items()
    ]


def served(crowds: Sequence[Crowd], tokens: int) -> Counter[str]:
    """Wait until so many tokens more are served, and whose they were."""

    def total() -> Counter[str]:
        found = Counter[str]()
        for crowd in crowds:
            crowd.check()
            found.update(crowd.served)
        return found

    before = total()
    until(lambda: (total() - before).total() >= tokens)
    return total() - before
