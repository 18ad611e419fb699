"""What all tests share: the measured reference data, and how hard Hypothesis tries."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI") == "true"

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "dev"))


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
