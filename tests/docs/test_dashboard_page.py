"""The configuration that the page's document shows is one."""

import tomllib
from pathlib import Path

from fairlane.door.config import Configuration
from tests.docs.markdown import read_blocks

PAGE = Path(__file__).parents[2] / "docs" / "dashboard.md"


def test_the_whole_table_is_read(tmp_path: Path) -> None:
    [block] = [block for block in read_blocks(PAGE) if block.language == "toml"]
    (tmp_path / "tenants.toml").touch()
    document = tomllib.loads(block.text)
    options = Configuration.parse(document, tmp_path).dashboard
    assert set(document["dashboard"]) == set(options.__slots__)
    assert Path(options.audit) == tmp_path / "changes.jsonl"
