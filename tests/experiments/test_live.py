"""The demonstration's live part: a gateway, an engine and a load over real sockets."""

import json
import signal
import sys
from pathlib import Path

import pytest

from fairlane.experiments import live
from fairlane.experiments.demo import demonstrate
from tests.processes import PATIENCE_S, started


@pytest.mark.slow
@pytest.mark.alone
def test_live_numbers_say_what_simulated_ones_say(tmp_path: Path) -> None:
    said: list[str] = []
    done = demonstrate(
        output=tmp_path / "demo.html", workers=2, live=True, say=said.append,
        trace=_small_trace(tmp_path),
    )  # fmt: skip
    rows = {one.scheduler: one for one in done.outcomes[live.TITLE]}
    assert list(rows) == ["FCFS", "FCFS, live", "VTC", "VTC, live"]
    for name in ("FCFS", "FCFS, live"):
        assert rows[name].service["1"] > 1.7 * rows[name].service["0"]
    for name in ("VTC", "VTC, live"):
        assert rows[name].service["1"] < 1.3 * rows[name].service["0"]
        assert rows[name].max_difference < rows["FCFS"].max_difference / 3
    for name in ("FCFS", "VTC"):
        assert rows[f"{name}, live"].throughput > 0.6 * rows[name].throughput
        assert (rows[name].bound, rows[f"{name}, live"].bound) == (4 * live.MEMORY_TOKENS, None)
        assert rows[f"{name}, live"].rejected == 0
    assert said == ["now live, in real time: a quarter of a minute"]
    assert (tmp_path / "demo.html").read_text().count("data:image/png;base64,") == 3


def test_a_load_that_left_late_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a thousand times its speed no machine sends in time."""
    monkeypatch.setattr(live, "SPEED", 1000.0)
    settings = live.simulated(tmp_path, seed=0)["VTC"]
    run, note = live.live(settings, tmp_path)
    assert len(run.records) == 240
    assert "bottleneck" in note


def test_ctrl_c_ends_it_without_a_word(tmp_path: Path) -> None:
    trace = _small_trace(tmp_path)
    command = [sys.executable, "-m", "fairlane", "demo", "--gateway", "--trace", trace, "--json"]
    with started(*command, "--workers", "1", cwd=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("now live"):
                break
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, printed) == (130, "")
        assert "Traceback" not in errors
    assert not (tmp_path / "fairlane-demo.html").exists()


@pytest.mark.parametrize("module", ["aiohttp", "python_multipart", "uvicorn"])
def test_a_plain_install_says_what_to_install_for_it(tmp_path: Path, module: str) -> None:
    """As where the module is not there."""
    trace = _small_trace(tmp_path)
    program = f"import sys; sys.modules[{module!r}] = None; from fairlane.cli import main; main()"
    demo = [sys.executable, "-c", program, "demo", "--trace", trace, "--workers", "1", "--json"]
    needs = (
        "the live part needs what is not installed: "
        "pip install aiohttp httptools python-multipart uvicorn uvloop"
    )
    with started(*demo, "--gateway", cwd=tmp_path) as process:
        printed, errors = process.communicate(timeout=PATIENCE_S)
        assert (printed, errors) == ("", f"fairlane: {needs}\n")
    with started(*demo, cwd=tmp_path) as process:
        printed, errors = process.communicate(timeout=PATIENCE_S)
        assert len(json.loads(printed)["outcomes"]) == 2
        assert f"left out: {needs}" in errors.splitlines()


def _small_trace(folder: Path) -> str:
    path = folder / "trace.csv"
    rows = "".join(f"{i % 3},{i},16,16\n" for i in range(30))
    path.write_text("client,arrival_s,prompt_len,output_len\n" + rows)
    return str(path)
