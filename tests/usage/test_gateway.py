"""What a gateway served is in its database: by tenant, model and hour, over real sockets."""

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fairlane.door.tenants import Role
from fairlane.usage.reading import Row, report
from fairlane.usage.store import Store, Where
from tests.door.town import Town
from tests.gateway.site import Site, gateway
from tests.simulated.engines import running
from tests.talking import until

EVERY_S = 0.1


def kept(folder: Path, *by: str, **where: Any) -> list[Row]:
    """What is in the database."""
    store = Store(str(folder / "usage.sqlite"))
    try:
        return report(store, by, Where(**where))
    finally:
        store.close()


def start(life: ExitStack, folder: Path, **tables: Any) -> tuple[Site, Town]:
    """A gateway before a simulated engine, and its clients: a, b and an operator."""
    town = Town(folder)
    for name, role in (("a", Role.CLIENT), ("b", Role.CLIENT), ("root", Role.OPERATOR)):
        town.add(name, role=role)
    speed = tables.pop("speed", 50.0)
    engine = life.enter_context(running(max_num_seqs=8, speed=speed, model="tiny", noise=False))
    usage = {"database": "usage.sqlite", "every_s": EVERY_S}
    site = life.enter_context(
        gateway(engine.url, folder=folder, tenants="tenants.toml", usage=usage, **tables)
    )
    return site, town


def test_what_was_served_is_kept(tmp_path: Path) -> None:
    """All of it, by client and model, refusals too; and no more when the gateway has ended."""
    with ExitStack() as life:
        site, town = start(life, tmp_path)
        town.add("narrow", requests_per_minute=1)
        for name, tokens in (("a", 30), ("a", 20), ("b", 7), ("narrow", 3), ("narrow", 3)):
            site.complete(tokens, town.keys[name], ignore_eos=True)
        clients = site.clients(town.keys["root"])
    rows = {row["tenant"]: row for row in kept(tmp_path, "tenant")}
    assert {name: row["output_tokens"] for name, row in rows.items()} == {
        "a": 50, "b": 7, "narrow": 3,
    }  # fmt: skip
    for name, row in rows.items():
        told = clients[name]
        for number in ("input_tokens", "cached_tokens", "output_tokens", "service", "wait_s"):
            assert row[number] == pytest.approx(told[number])
        assert row["requests"] == told["arrivals"]
    assert rows["narrow"]["refused"] == {"requests_per_minute": 1}
    models = {(row["model"], sum(row["refused"].values())) for row in kept(tmp_path, "model")}
    assert models == {("tiny", 0), ("", 1)}  # a limit refuses before the body is read
    [day] = kept(tmp_path, "day")
    assert time.strftime("%Y-%m-%d", time.gmtime()) >= day["day"]


def test_a_long_answer_shows_before_it_ends(tmp_path: Path) -> None:
    with ExitStack() as life:
        site, town = start(life, tmp_path, speed=2.0)
        talk = threading.Thread(target=site.complete, args=(150, town.keys["a"]))
        talk.start()
        seen: set[int] = set()

        def grows() -> bool:
            seen.update(row["output_tokens"] for row in kept(tmp_path, "tenant"))
            return len({tokens for tokens in seen if 0 < tokens < 150}) > 1

        until(grows)
        assert site.running.live
        talk.join()


def test_the_command_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fairlane.cli import _run

    with ExitStack() as life:
        site, town = start(life, tmp_path)
        site.complete(9, town.keys["a"], ignore_eos=True)
    database = str(tmp_path / "usage.sqlite")
    assert _run(["usage", database, "--json", "--by", "tenant,model,month", "--since", "1d"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["tenant"], row["model"], row["output_tokens"]) == ("a", "tiny", 9)
    assert _run(["usage", database, "--csv", "--by", "day"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split(",")[:3] == ["day", "requests", "input_tokens"]
    assert line.split(",")[1] == "1"
    assert _run(["usage", database, "--delete", "a"]) == 0
    assert kept(tmp_path, "tenant") == []
