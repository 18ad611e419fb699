"""What all tests share: the measured data, how hard Hypothesis tries, and who runs beside whom."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import side_by_side

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "dev"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, the quick ones come first, and what runs alone before the other slow ones."""

    def order(item: pytest.Item) -> tuple[bool, bool]:
        alone, slow = item.get_closest_marker("alone"), item.get_closest_marker("slow")
        return slow is not None, alone is None

    if is_one_of_several(config):
        items.sort(key=order)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test, with all of its set-up, beside others or alone."""
    if not is_one_of_several(item.config):
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    with side_by_side.room(Path(__file__), Path(side_by_side.__file__), alone=alone):
        return (yield)


def is_one_of_several(config: pytest.Config) -> bool:
    """Whether this is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of the artifact's measurements: FAIRLANE_REFERENCE, or beside the checkout.

    It is not part of the project. Where it is absent the test is skipped, or fails where CI=true,
    so that continuous integration cannot leave these tests out unnoticed.
    """
    named = os.environ.get("FAIRLANE_REFERENCE")
    path = Path(named) if named else ROOT.parent / "shared" / "reference"
    if not path.is_dir():
        reason = f"no measured reference data at {path}; name the folder in FAIRLANE_REFERENCE"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    return path.resolve()
