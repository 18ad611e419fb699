"""Gateways that keep usage, before simulated engines, and their databases."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fairlane.door.tenants import Role
from fairlane.usage.reading import Row, Where, report
from fairlane.usage.store import Store
from tests.door.town import Town
from tests.gateway.site import Site, gateway
from tests.simulated.engines import running

EVERY_S = 0.1


def kept(database: Path | str, *by: str, **where: Any) -> list[Row]:
    """What is in a database."""
    store = Store(str(database))
    try:
        return report(store, by, Where(**where))
    finally:
        store.close()


def town_of(folder: Path) -> Town:
    """Clients a and b, and an operator."""
    town = Town(folder)
    for name, role in (("a", Role.CLIENT), ("b", Role.CLIENT), ("root", Role.OPERATOR)):
        town.add(name, role=role)
    return town


def start(life: ExitStack, folder: Path, town: Town, **tables: Any) -> Site:
    """A gateway before a simulated engine that serves the model `tiny`.

    speed: of the engine. usage: keys of that table.
    """
    speed = tables.pop("speed", 50.0)
    usage = {"database": "usage.sqlite", "every_s": EVERY_S, **tables.pop("usage", {})}
    engine = life.enter_context(running(max_num_seqs=8, speed=speed, model="tiny", noise=False))
    given = {"tenants": "tenants.toml", "scheduler": {"groups": True}, "usage": usage, **tables}
    return life.enter_context(gateway(engine.url, folder=folder, **given))
