"""What operators change on the page: it acts, it is in the audit log, and nobody else can."""

import json
import stat
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.door.config import Configuration
from tests.dashboard.conftest import Start
from tests.dashboard.looking import viewer
from tests.door.hosts import Answer, Host, Plugin
from tests.door.town import Town
from tests.talking import bearer

ON: dict[str, Any] = {"changes": True, "audit": "audit.jsonl"}
SET: dict[str, Any] = {"do": "set", "client": "alice", "weight": 3}


def change(host: Host, key: str | None, body: Any, **headers: str) -> Answer:
    """Ask for a change, as the page does."""
    named: dict[str, str | bytes] = {"Content-Type": "application/json"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    return host.ask("POST", "/fairlane/changes", {**named, **(bearer(key) if key else {})}, body)


def audit(town: Town) -> list[dict[str, Any]]:
    """The lines of the log."""
    file = town.folder / ON["audit"]
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_change_acts_and_is_in_the_log(start: Start, town: Town) -> None:
    host, root = start(dashboard=ON), town.keys["root"]
    with viewer(host.port, root) as operator:
        assert operator.hello["changes"]
        limits = {"requests_per_minute": 7, "max_running": None}
        told = change(host, root, {**SET, "limits": limits}, X_Forwarded_For="10.9.8.7")
        assert json.loads(told.text)["limits"] == {"requests_per_minute": 7}
        operator.until(lambda it: it.rows["alice"]["weight"] == 3)
        assert operator.rows["alice"]["limits"]["requests_per_minute"] == 7
        assert change(host, root, {"do": "set", "client": "alice", "weight": 1}).status == 200
        operator.until(lambda it: it.rows["alice"]["weight"] == 1)
    first, second = audit(town)
    # vLLM's uvicorn believes a proxy on its own machine
    address = "10.9.8.7" if isinstance(host, Plugin) else "127.0.0.1"
    assert (first["who"], first["address"], first["client"]) == ("root", address, "alice")
    assert first["forwarded_for"] == "10.9.8.7"
    assert (first["before"]["weight"], first["after"]["weight"]) == (1, 3)
    assert (first["before"]["limits"], first["after"]["limits"]) == ({}, {"requests_per_minute": 7})
    assert first["time"] < second["time"]
    assert (second["before"]["weight"], second["after"]["weight"]) == (3, 1)
    mode = (town.folder / ON["audit"]).stat().st_mode
    assert not stat.S_IMODE(mode) & 0o007


def test_keys_come_and_go_and_are_nowhere_written(start: Start, town: Town) -> None:
    host, root = start(dashboard=ON), town.keys["root"]
    made = json.loads(change(host, root, {"do": "add_key", "client": "bob"}).text)
    assert host.sender(made["key"]) == "bob"
    told = json.loads(host.ask("GET", "/fairlane/keys?client=bob", bearer(root)).text)
    assert made["key_id"] in [key["id"] for key in told["keys"]]
    assert len(told["keys"]) == 2
    gone = {"do": "revoke_key", "client": "bob", "key_id": made["key_id"]}
    assert change(host, root, gone).status == 200
    assert host.send(made["key"]).refusal == (401, "invalid_api_key")
    assert host.sender(town.keys["bob"]) == "bob"
    added, revoked = audit(town)
    assert (added["do"], revoked["do"]) == ("add_key", "revoke_key")
    assert added["after"]["keys"] == revoked["before"]["keys"]
    written = [file.read_text() for file in town.folder.iterdir() if file.is_file()]
    assert not any(key in text for key in (made["key"], *town.keys.values()) for text in written)
    own = {"do": "revoke_key", "client": "root", "key_id": added["by_key"]}
    assert change(host, root, own).refusal == (400, "not_changed")


def test_only_operators_change_and_only_from_here(start: Start, town: Town) -> None:
    host, root = start(dashboard=ON), town.keys["root"]
    here = f"127.0.0.1:{host.port}"
    before = town.file.read_bytes()
    assert change(host, None, SET).refusal == (401, "missing_api_key")
    assert change(host, "fl-" + "x" * 43, SET).refusal == (401, "invalid_api_key")
    for name in ("alice", "gate"):
        assert change(host, town.keys[name], SET).refusal == (403, "operators_only")
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://{here}.evil.example"},
        {"Origin": f"http://evil.example@{here}"},
        {"Origin": f"http://127.0.0.1:{host.port + 1}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": f"http://{here}", "Sec_Fetch_Site": "cross-site"},
    ):
        assert change(host, root, SET, **headers).refusal == (403, "other_origin")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        assert change(host, root, SET, Content_Type=kind).refusal == (415, "not_json")
    assert host.ask("GET", "/fairlane/changes", bearer(root)).status == 405
    assert (town.file.read_bytes(), audit(town)) == (before, [])
    good = {"Origin": f"http://{here}", "Sec_Fetch_Site": "same-origin"}
    assert change(host, root, SET, **good).status == 200
    assert len(audit(town)) == 1


def test_behind_a_proxy_the_origin_is_named(start: Start, town: Town) -> None:
    host, root = start(dashboard={**ON, "origin": "https://llm.example"}), town.keys["root"]
    here = f"http://127.0.0.1:{host.port}"
    assert change(host, root, SET, Origin=here).refusal == (403, "other_origin")
    assert change(host, root, SET, Origin="https://llm.example").status == 200


WRONG: tuple[Any, ...] = (
    [], 1, {}, {"do": "drop"}, {"do": "set"}, {"do": "set", "client": "alice"},
    {"do": "set", "client": ["alice"], "weight": 1}, {**SET, "weight": 0}, {**SET, "weight": "2"},
    {**SET, "weight": True}, {**SET, "weight": None}, {**SET, "weight": 1e9},
    {**SET, "role": "operator"},
    {**SET, "limits": 3}, {**SET, "limits": {"x": 1}}, {**SET, "limits": {"max_running": 0}},
    {**SET, "limits": {"max_running": 1.5}}, {**SET, "limits": {"max_running": [1]}},
    {"do": "revoke_key", "client": "alice"}, {"do": "add_key", "client": "alice", "key": "mine"},
)  # fmt: skip


def test_what_cannot_be_changes_nothing_and_says_why(start: Start, town: Town) -> None:
    host, root = start(dashboard=ON), town.keys["root"]
    before = town.file.read_bytes()
    for body in WRONG:
        told = change(host, root, body)
        assert told.refusal == (400, "not_changed"), body
        assert len(json.loads(told.text)["error"]["message"]) > 10
    for body in (
        b"{",
        b"[" * 20_000,
        b'{"do": \xff}',
        b'{"do": "set", "client": "alice", "weight": NaN}',
    ):
        assert change(host, root, body).status in (400, 413)
    assert change(host, root, {**SET, "client": "nobody"}).refusal == (404, "no_such_client")
    assert change(host, root, b"[" + b" " * 20_000 + b"]").refusal == (413, "too_large")
    assert (town.file.read_bytes(), audit(town)) == (before, [])


def test_without_its_log_nothing_is_changed(start: Start, town: Town) -> None:
    host, root = start(dashboard=ON), town.keys["root"]
    (town.folder / ON["audit"]).mkdir()
    before = town.file.read_bytes()
    assert change(host, root, SET).refusal == (500, "no_audit")
    assert town.file.read_bytes() == before


def test_off_by_default(start: Start, town: Town) -> None:
    host, root = start(), town.keys["root"]
    with viewer(host.port, root) as operator:
        assert not operator.hello["changes"]
    assert change(host, root, SET).refusal == (403, "changes_off")
    assert host.ask("GET", "/fairlane/keys?client=bob", bearer(root)).status == 200


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"dashboard": {"changes": True}}, "name one by tenants"),
        ({"dashboard": {"audit": "x"}}, "audit is for changes"),
        ({"dashboard": {"origin": "https://x"}}, "origin is for changes"),
        ({"dashboard": {"on": False, "viewers": 3}}, "remove them"),
        ({"dashboard": {"viewers": 0}}, "viewers"),
        ({"dashboard": {"colour": 1}}, "colour"),
        (
            {"dashboard": {**ON, "origin": "llm.example/x"}, "tenants": "tenants.toml"},
            "origin must",
        ),
    ],
)
def test_what_cannot_act_is_refused(town: Town, document: dict[str, Any], says: str) -> None:
    with pytest.raises(FairlaneError, match=says) as raised:
        Configuration.parse(document, town.folder)
    assert "[dashboard]" in str(raised.value)
    assert "\n" not in str(raised.value)
