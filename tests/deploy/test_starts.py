"""Each way in deploy/ to start the gateway is one that `fairlane gateway` takes, and serves."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fairlane.cli import main
from tests.deploy.files import (
    Start,
    by_compose,
    by_image,
    by_kubernetes,
    by_systemd,
    compose,
    pod,
    unit,
)
from tests.simulated.engines import running

WAYS = [by_systemd, by_image, by_compose, by_kubernetes]


@pytest.mark.parametrize("way", WAYS)
def test_the_gateway_takes_its_command_and_its_files(
    way: Callable[[], Start],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = way()
    for name in start.environment:
        monkeypatch.setenv(name, "secret")
    with running(model="llama") as engine:
        command = start.laid_out(tmp_path, engine.url)
        with pytest.raises(SystemExit) as end:
            main([*command, "--check"])
    printed = capsys.readouterr()
    assert (end.value.code, printed.err) == (0, "")
    assert printed.out.startswith("llama: ")


@pytest.mark.parametrize("way", WAYS)
def test_a_configuration_with_a_mistake_is_found(
    way: Callable[[], Start], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = way().laid_out(tmp_path, "ftp://h")
    with pytest.raises(SystemExit) as end:
        main([*command, "--check"])
    assert end.value.code == 2
    assert "takes an address such as" in capsys.readouterr().err


def test_the_simulated_engine_takes_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    """With --help it ends before it listens, and after all words were read."""
    command = compose()["services"]["engine"]["command"]
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    with pytest.raises(SystemExit) as end:
        main([*command, "--max-seqs", "3"])
    assert end.value.code == 2


def test_longest_drain_is_waited_for_everywhere() -> None:
    """Longer than a request may wait and an engine may say nothing: 240 + 600 s by default."""
    assert pod()["terminationGracePeriodSeconds"] >= 840
    assert unit()["Service.TimeoutStopSec"] == ["15min"]
    assert compose()["services"]["gateway"]["stop_grace_period"] == "15m"
