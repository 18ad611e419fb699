"""[cluster]: what it may say, and what is said of mistakes."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fairlane.cluster.config import Cluster
from fairlane.cluster.member import Member
from fairlane.cluster.redis import RedisHub
from fairlane.core.errors import FairlaneError
from tests.cluster.servers import PASSWORD, Server

HUB = {"hub": "redis://h", "pool": "p"}


def test_all_keys_are_taken(tmp_path: Path) -> None:
    written: dict[str, Any] = {
        "hub": "rediss://user@h:1/2", "pool": "meta/llama", "namespace": "é",
        "password_env": "P", "ca": "ca.pem", "every_s": 1, "guard": 0, "max_debt": 1e4,
        "shared_limits": True, "ranks": True,
    }  # fmt: skip
    made = Cluster.parse(written, tmp_path)
    assert made == Cluster(**{**written, "ca": str(tmp_path / "ca.pem")})
    assert Cluster.parse({}, tmp_path) == Cluster()
    assert Cluster.parse({"ranks": False}, tmp_path) == Cluster(ranks=False)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"hubb": "x"}, "unknown key 'hubb'"),
        ({"every_s": 0}, "every_s must be"),
        ({"every_s": 61}, "every_s must be"),
        ({"guard": 1.0}, "guard must be"),
        ({"guard": "0.1"}, "guard must be"),
        ({"max_debt": 0}, "max_debt must be"),
        ({"shared_limits": 1}, "shared_limits must be"),
        ({"hub": "redis://h"}, "pool must be a name"),
        ({**HUB, "pool": "a\nb"}, "pool must be a name"),
        ({**HUB, "namespace": ""}, "namespace must be a name"),
        ({"pool": "p"}, "pool is for a hub"),
        ({"shared_limits": True}, "shared_limits is for a hub"),
        ({"ca": "x"}, "ca is for a hub"),
        ({**HUB, "ranks": False}, "ranks = false: all who meet at a hub share"),
        ({"ranks": False, "every_s": 1}, "every_s is for who shares"),
        ({"ranks": False, "guard": 0.1}, "guard is for who shares"),
        ({"ranks": False, "max_debt": 5}, "max_debt is for who shares"),
        ({**HUB, "ca": "x"}, "ca is for a hub with TLS"),
        ({**HUB, "hub": "http://h"}, "hub must be an address"),
        ({**HUB, "hub": "redis://"}, "hub must be an address"),
        ({**HUB, "hub": "redis://h:x"}, "hub must be an address"),
        ({**HUB, "hub": "redis://h/zero"}, "hub must be an address"),
        ({**HUB, "hub": "redis://h?ssl_cert_reqs=none"}, "hub must be an address"),
        ({**HUB, "hub": "ray", "ca": "x"}, "ca is for a hub with TLS"),
        ({**HUB, "hub": "ray", "password_env": "P"}, "password_env is for a hub on a server"),
        ({"hub": "ray"}, "pool must be a name"),
        ({**HUB, "hub": "redis://:secret@h", "password_env": "P"}, "hub holds a password"),
        ({**HUB, "hub": "redis://:secret@h:x"}, "hub must be an address"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(written: dict[str, Any], said: str) -> None:
    with pytest.raises(FairlaneError) as caught:
        Cluster.parse(written, Path())
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_the_machine_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUB_PASSWORD", raising=False)
    with pytest.raises(FairlaneError, match="password_env: the environment has no HUB_PASSWORD"):
        Cluster.parse({**HUB, "password_env": "HUB_PASSWORD"}, Path()).connect()
    with pytest.raises(FairlaneError, match="ca: there is no file"):
        Cluster.parse({**HUB, "hub": "rediss://h", "ca": "no.pem"}, Path()).connect()
    assert Cluster.parse({}, Path()).connect() is None


def test_it_leads_to_the_hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_PASSWORD", PASSWORD)
    written = {"hub": server.url, "pool": "p", "password_env": "HUB_PASSWORD"}
    hub = Cluster.parse(written, Path()).connect()
    assert isinstance(hub, RedisHub)

    async def run() -> None:
        pull = await hub.exchange(Member("m").begin({}))
        assert pull.members == 1
        await hub.close()

    asyncio.run(run())


def test_the_configuration_needs_no_client_of_redis() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "import fairlane.cluster.config as c, fairlane.cluster.exchange, pathlib\n"
        "made = c.Cluster.parse({'hub': 'redis://h', 'pool': 'p'}, pathlib.Path())\n"
        "try:\n    made.connect()\nexcept c.FairlaneError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "a hub needs redis, which is not installed: pip install redis hiredis\n"
