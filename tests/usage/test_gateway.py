"""What a gateway served is in its database: by tenant, model and hour, over real sockets."""

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.talking import until
from tests.usage.places import kept, start, town_of


@pytest.mark.usefixtures("any_desk")
def test_what_was_served_is_kept(tmp_path: Path) -> None:
    """All of it, by client and model, refusals too; and no more when the gateway has ended."""
    town = town_of(tmp_path)
    town.add("narrow", requests_per_minute=1)
    with ExitStack() as life:
        site = start(life, tmp_path, town)
        for name, tokens in (("a", 30), ("a", 20), ("b", 7), ("narrow", 3), ("narrow", 3)):
            site.complete(tokens, town.keys[name], ignore_eos=True)
        clients = site.clients(town.keys["root"])
    rows = {row["tenant"]: row for row in kept(tmp_path / "usage.sqlite", "tenant")}
    assert {name: row["output_tokens"] for name, row in rows.items()} == {
        "a": 50, "b": 7, "narrow": 3,
    }  # fmt: skip
    for name, row in rows.items():
        told = clients[name]
        for number in ("input_tokens", "cached_tokens", "output_tokens", "service", "wait_s"):
            assert row[number] == pytest.approx(told[number])
        assert row["requests"] == told["arrivals"]
    assert rows["narrow"]["refused"] == {"requests_per_minute": 1}
    rows_by_model = kept(tmp_path / "usage.sqlite", "model")
    models = {(row["model"], sum(row["refused"].values())) for row in rows_by_model}
    assert models == {("tiny", 0), ("", 1)}  # a limit refuses before the body is read
    [day] = kept(tmp_path / "usage.sqlite", "day")
    assert time.strftime("%Y-%m-%d", time.gmtime()) >= day["day"]


def test_a_long_answer_shows_before_it_ends(tmp_path: Path) -> None:
    town = town_of(tmp_path)
    with ExitStack() as life:
        site = start(life, tmp_path, town, speed=2.0)
        talk = threading.Thread(target=site.complete, args=(150, town.keys["a"]))
        talk.start()
        seen: set[int] = set()

        def grows() -> bool:
            seen.update(row["output_tokens"] for row in kept(tmp_path / "usage.sqlite", "tenant"))
            return len({tokens for tokens in seen if 0 < tokens < 150}) > 1

        until(grows)
        assert site.running.live
        talk.join()


@pytest.mark.usefixtures("any_desk")
def test_an_operator_sees_everyone_and_a_client_itself(tmp_path: Path) -> None:
    """Also a group with a key of its own: not its members. Wrong questions get one line."""
    town = town_of(tmp_path)
    town.add("team")
    town.add("member", parent="team", soft_cost_per_month=1000.5)
    with ExitStack() as life:
        site = start(life, tmp_path, town)
        for name in ("a", "b", "team", "member"):
            site.complete(5, town.keys[name], ignore_eos=True)

        def rows(who: str, query: str = "") -> dict[str, int]:
            _, _, body = site.request("GET", "/fairlane/usage" + query, key=town.keys[who])
            return {row["tenant"]: row["output_tokens"] for row in json.loads(body)["rows"]}

        everyone = {"a": 5, "b": 5, "team": 5, "team/member": 5}
        until(lambda: rows("root") == everyone)
        assert rows("root", "?tenant=team") == {"team": 5, "team/member": 5}
        for who, path in (("a", "a"), ("team", "team"), ("member", "team/member")):
            assert rows(who, "?tenant=b&by=tenant") == {path: 5}
        for query in ("?by=user", "?since=soon", "?by=day,day", "?x=1", "?by=day,hour"):
            status, _, body = site.request("GET", "/fairlane/usage" + query, key=town.keys["a"])
            assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")
        assert site.request("GET", "/fairlane/usage")[0] == 401
        me = json.loads(site.request("GET", "/fairlane/me", key=town.keys["member"])[2])
    assert (me["client"], me["operator"], me["weight"]) == ("team/member", False, 1.0)
    assert me["usage"]["today"]["output_tokens"] == me["usage"]["month"]["output_tokens"] == 5
    [quota] = me["quotas"]
    assert quota["used"] + quota["remaining"] == quota["limit"] == 1000.5
    assert quota["used"] == me["usage"]["month"]["service"]


def test_the_command_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fairlane.cli import _run

    town = town_of(tmp_path)
    with ExitStack() as life:
        start(life, tmp_path, town).complete(9, town.keys["a"], ignore_eos=True)
    database = str(tmp_path / "usage.sqlite")
    assert _run(["usage", database, "--json", "--by", "tenant,model,month", "--since", "1d"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["tenant"], row["model"], row["output_tokens"]) == ("a", "tiny", 9)
    assert _run(["usage", database, "--csv", "--by", "day"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split(",")[:3] == ["day", "requests", "input_tokens"]
    assert line.split(",")[1] == "1"
    (tmp_path / "fairlane.toml").write_text('[usage]\ndatabase = "usage.sqlite"\n')
    assert _run(["usage", "--config", str(tmp_path / "fairlane.toml"), "--delete", "a"]) == 0
    assert kept(database, "tenant") == []
    assert _run(["usage", str(tmp_path / "none.sqlite")]) == 2
    assert not (tmp_path / "none.sqlite").exists()
