"""The configuration of access: every mistake keeps the server from starting."""

from pathlib import Path
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.door.tenants import Limits, Role
from fairlane.engines.vllm.config import FairlaneConfig
from fairlane.engines.vllm.frontend import refuse_unguarded_front_ends
from tests.engines.identity.site import Town


@pytest.fixture
def town(tmp_path: Path) -> Town:
    town = Town(tmp_path)
    town.add("alice")
    return town


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ({"tenants": 3}, "tenants must be the name of a file in quotes"),
        ({"tenants": "missing.toml"}, "no such file"),
        (
            {"identity": {"anonymos": "x"}},
            r"\[identity\] unknown key 'anonymos': did",
        ),
        ({"identity": {"anonymous": 3}}, r"\[identity\] anonymous must be a valid string, not 3"),
        ({"identity": {"anonymous": "alice"}}, "'alice' has API keys"),
        ({"identity": {"anonymous": "a\nb"}}, "is not a name"),
        ({"tenants": None, "identity": {"header": "x-org"}}, "a gateway needs a key; name a file"),
        ({"identity": {"header": "Authorization"}}, "cannot be a gateway's header"),
        ({"identity": {"header": "x client"}}, "cannot be a gateway's header"),
        ({"identity": {"routes": ["v1/new"]}}, "'v1/new' is no path"),
        ({"identity": {"lora": "yes"}}, r"\[identity\] lora must be a valid boolean, not 'yes'"),
        ({"limits": {"requests_per_minute": 0}}, r"\[limits\] requests_per_minute must be"),
        ({"limits": {"requests": 1}}, r"\[limits\] unknown key 'requests'"),
        ({"metrics": {"top": -1}}, r"\[metrics\] top must be greater than or equal to 0, not -1"),
        ({"metrics": 3}, r"\[metrics\] must be a table"),
    ],
)
def test_mistakes(town: Town, tables: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        town.access(**tables)


def test_groups_need_a_scheduler_that_knows_them(town: Town) -> None:
    town.add("acme", with_key=False)
    town.add("bob", parent="acme")
    with pytest.raises(FairlaneError, match=r"\[scheduler\] groups must be true"):
        town.access(scheduler={})
    assert town.access(scheduler={"groups": True}).tenants().path("bob") == "acme/bob"


def test_with_tenants_strangers_are_refused_unless_they_are_named(town: Town) -> None:
    assert town.access().rules.anonymous is None
    assert town.access(identity={"anonymous": "guest"}).rules.anonymous == "guest"
    assert not town.access().public


def test_the_file_is_read_as_a_whole(town: Town, tmp_path: Path) -> None:
    file = tmp_path / "fairlane.toml"
    file.write_text(
        'tenants = "tenants.toml"\n[scheduler]\nname = "vtc"\n'
        '[identity]\nanonymous = ""\nheader = "X-Org"\n[limits]\nmax_queued = 7\n'
    )
    access = FairlaneConfig.read(file).access
    assert access.limits == Limits(max_queued=7)
    assert access.rules.header == "x-org"
    assert set(access.tenants()) == {"alice"}
    file.write_text('tenants = "tenants.toml"\n[metrics]\ntop = "many"\n')
    with pytest.raises(FairlaneError, match=r"fairlane.toml: \[metrics\] top"):
        FairlaneConfig.read(file)


def test_front_ends_without_middleware_are_refused() -> None:
    refuse_unguarded_front_ends(["vllm", "serve", "m", "--port", "1"], {})
    refuse_unguarded_front_ends([], {"VLLM_USE_RUST_FRONTEND": "0"})
    with pytest.raises(FairlaneError, match="gRPC"):
        refuse_unguarded_front_ends(["serve", "m", "--grpc"], {})
    with pytest.raises(FairlaneError, match="Rust"):
        refuse_unguarded_front_ends([], {"VLLM_USE_RUST_FRONTEND": "1"})


def test_a_gateways_header_without_a_gateway_is_a_warning_until_there_is_one(town: Town) -> None:
    access = town.access(identity={"header": "x-org"})
    assert "'x-org' is ignored, because no tenant is a gateway" in access.warning
    assert "fairlane tenants add NAME --role gateway" in access.warning
    assert not town.access().warning  # the header that nobody asked for
    town.add("gate", role=Role.GATEWAY)
    assert not access.warning
