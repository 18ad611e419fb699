"""A server that would not be safe does not start."""

from pathlib import Path

import pytest
from serving import PLUGIN, start, stop, write_model

from fairlane.core.errors import FairlaneError
from tests.processes import size, wait_until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = write_model(tmp_path_factory.mktemp("model"))
    return made


def test_the_scheduler_refuses_front_ends_without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairlane.engines.vllm.scheduling import make_scheduler

    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(FairlaneError, match="the Rust front end passes by the middleware"):
        make_scheduler()


@pytest.mark.parametrize(
    ("options", "environment", "complaint"),
    [
        (("--middleware", "fairlane.engines.vllm.identity"), {}, "--scheduler-cls fairlane"),
        (PLUGIN, {"FAIRLANE_CONFIG": "/does/not/exist.toml"}, "cannot be read"),
    ],
)
def test_a_server_that_would_not_be_safe_does_not_start(
    model: Path, tmp_path: Path, options: tuple[str, ...], environment: dict[str, str],
    complaint: str,
) -> None:  # fmt: skip
    process, _ = start(model, options, tmp_path / "log", environment)
    try:
        wait_until(lambda: size(tmp_path), lambda _: process.poll() is not None, "it ends")
        assert process.returncode != 0
    finally:
        stop(process)
    assert complaint in (tmp_path / "log").read_text()
