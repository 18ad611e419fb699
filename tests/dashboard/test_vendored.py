"""What the page takes from others is what was released: byte for byte, and no other version."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/dashboard/vendor.py"


@pytest.fixture(scope="module")
def vendor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vendor", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_those_of_the_locked_packages(vendor: ModuleType) -> None:
    contents = {name: (vendor.STATIC / name).read_bytes() for name in vendor.FILES}
    assert vendor.record(contents) == json.loads(vendor.RECORD.read_text(encoding="utf-8"))
    asked = json.loads((TOOL.parent / "package.json").read_text())["dependencies"]
    locked = json.loads((TOOL.parent / "package-lock.json").read_text())["packages"]
    assert asked == locked[""]["dependencies"]
    assert asked == {name: locked[f"node_modules/{name}"]["version"] for name in asked}


def test_every_file_of_others_is_recorded_and_has_its_licence(vendor: ModuleType) -> None:
    """A line of ours is not so long; what a build made of others' is."""
    ours = {path.name for path in vendor.STATIC.iterdir()} - vendor.FILES.keys()
    long = [
        name
        for name in ours
        if any(len(line) > 1000 for line in (vendor.STATIC / name).read_text().splitlines())
    ]
    assert long == []
    assert "MIT" in (vendor.STATIC / "uPlot.LICENSE.txt").read_text()
