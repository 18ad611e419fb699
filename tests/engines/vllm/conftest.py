"""The second environment, with vLLM for CPUs, in which the tests under inside/ run."""

from pathlib import Path

import pytest

from tests import environments

collect_ignore = ["inside"]  # these run in the other environment, by test_inside.py


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to make it while other tests run."""
    environments.begin(session, "vllm_python", "vllm_env")


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The environment's interpreter; it is made on first use, which takes minutes and 2.5 GB."""
    return environments.interpreter("vllm_env", ".venv-vllm")
