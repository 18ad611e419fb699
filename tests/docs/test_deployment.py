"""What docs/deployment.md shows of configurations is what the gateway takes."""

import re
import tomllib
from pathlib import Path

import pytest

from fairlane.gateway.config import GatewayConfig
from tests.docs.markdown import Block, read_blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
BLOCKS = [block for block in read_blocks(PAGE) if block.language == "toml"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line-{block.line}")
def test_the_gateway_takes_each_upstream(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r'key_env = "(\w+)"', block.text):
        monkeypatch.setenv(name, "secret")
    config = GatewayConfig.parse(tomllib.loads(block.text), PAGE.parent)
    assert len(config.upstreams) == 1


def test_every_engine_has_one() -> None:
    named = {name for block in BLOCKS for name in tomllib.loads(block.text)["upstreams"]}
    assert named == {"vllm", "sglang", "llamacpp", "ollama", "tgi", "trtllm", "hosted"}
