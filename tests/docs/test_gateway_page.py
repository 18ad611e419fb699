"""The configuration that the gateway's page shows is one."""

import tomllib
from pathlib import Path

import pytest

from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.sharing import connected
from tests.docs.markdown import read_blocks

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"


def test_the_whole_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block, cluster = [block for block in read_blocks(PAGE) if block.language == "toml"]
    for name in ("BIG_KEY", "HUB_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    for name in ("ca.pem", "tenants.toml"):
        (tmp_path / name).touch()
    document = tomllib.loads(block.text)
    assert set(document) >= {"tenants", "scheduler", "prices", "upstreams", "gateway", "routes"}
    config = GatewayConfig.parse({**document, **tomllib.loads(cluster.text)}, tmp_path)
    assert config.cluster.same_upstreams
    assert connected(config.cluster) is not None
    assert [plan.name for plan in config.upstreams] == ["big", "small"]
