"""The stream over real sockets, on every host: who sees what, and that it is true."""

from tests.dashboard.conftest import Start
from tests.dashboard.looking import viewer
from tests.door.town import Town
from tests.talking import bearer


def test_an_operator_sees_everyone_and_a_client_itself(start: Start, town: Town) -> None:
    host = start()
    for name in ("alice", "bob"):
        assert host.send(town.keys[name]).status == 200
    with viewer(host.port, town.keys["root"]) as operator:
        assert (operator.hello["role"], operator.hello["client"]) == ("operator", None)
        operator.look()
        assert {"alice", "bob", "gate", "root"} <= operator.rows.keys()
    with viewer(host.port, town.keys["alice"]) as client:
        assert (client.hello["role"], client.hello["client"]) == ("client", "alice")
        for _ in range(2):
            client.look()
            assert client.rows.keys() == {"alice"}
            assert client.frame["difference"]["between"] is None


def test_wrong_keys_see_nothing(start: Start, town: Town) -> None:
    host = start()
    for path in ("/fairlane/live", "/fairlane/history?client=alice", "/fairlane/keys?client=bob"):
        assert host.ask("GET", path).refusal == (401, "missing_api_key")
        assert host.ask("GET", path, bearer("fl-" + "x" * 43)).refusal == (401, "invalid_api_key")
