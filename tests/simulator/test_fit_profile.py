"""tools/fit_profile.py finds the latencies that a log was made with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from tools.fit_profile import fit, numbers, read_logs, report, write
from tools.profile_errors import host

from fairlane.experiments.settings import Settings
from fairlane.policies.registry import create_policy
from fairlane.simulator.batching import Batch
from fairlane.simulator.profile import VllmProfile, get_profile, read_profile
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.serving import VllmConfig
from fairlane.simulator.step_latency import StepLatency
from fairlane.simulator.vllm import VllmLoop

TRUE = cast(VllmProfile, get_profile("h200-llama-2-7b"))
PROFILES = Path(__file__).parents[2] / "src" / "fairlane" / "simulator" / "profiles"
CHOOSING_S = 0.0009  # of what the engine does before a step begins, what schedule() takes


class LoggingLoop(VllmLoop):
    """Notes its steps as tools/switching.py does on a server."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}

    def _launch(self, batch: Batch) -> None:
        size = batch.size()
        prompts = [[p.before, p.tokens] for p in batch.parts if p.tokens > 1 or not p.before]
        times = {"s0": self._now, "s1": self._now + CHOOSING_S}
        what = {"prefill": prompts, "decode": size.decodes, "ctx": size.context}
        self._numbers[id(batch)] = len(self.rows)
        self.rows.append({"step": len(self.rows), **times, **what})
        super()._launch(batch)

    def _take_in(self, batch: Batch, answered: float) -> None:
        begin = max(self._now, answered)
        super()._take_in(batch, answered)
        self.rows[self._numbers.pop(id(batch))] |= {"u0": begin, "u1": self._now - 1e-5}


def log(suite: str, rate_scale: float, path: Path, latency: StepLatency = TRUE.latency) -> Path:
    """Of a simulated server, with all its noise."""
    profile = replace(TRUE, max_num_seqs=64, latency=latency)
    requests = Settings(suite=suite, scheduler="vtc", rate_scale=rate_scale, duration=25).requests()
    config = VllmConfig(profile=profile, noise=profile.noise)
    loop = LoggingLoop(requests, create_policy("vtc"), config, Randomness(0, config.noise))
    loop.run()
    path.write_text("".join(json.dumps(row) + "\n" for row in loop.rows))
    return path


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of a few suites."""
    folder = tmp_path_factory.mktemp("logs")
    suites = (("overload", 10), ("poisson-short-long-2", 4), ("increase", 12))
    return [log(suite, scale, folder / f"{suite}.steps.jsonl") for suite, scale in suites]


def test_a_fit_finds_what_a_log_was_made_with(logs: list[Path], tmp_path: Path) -> None:
    steps = read_logs(logs)
    found = fit(steps)
    assert "decode, up to 128" in report(found, steps)
    path = tmp_path / "fitted.toml"
    path.write_text((PROFILES / "h200-llama-2-7b.toml").read_text())
    write(path, numbers(found) | {"fitted_on": ["a log"]})
    fitted = read_profile(path)
    assert isinstance(fitted, VllmProfile)
    assert fitted.provenance["fitted_on"] == ["a log"]
    for batch in (8, 32, 60):
        for context in (batch * 100, batch * 400):
            expected = TRUE.decode(batch, context, 0)
            assert fitted.decode(batch, context, 0) == pytest.approx(expected, rel=0.03)
    for prompt in (256, 2000):
        assert fitted.prefill(prompt) == pytest.approx(TRUE.prefill(prompt), rel=0.15)


@pytest.mark.parametrize("slowness", [0.75, 1.0, 1.3])
def test_how_fast_a_host_launches_is_read_off_a_log(slowness: float, tmp_path: Path) -> None:
    path = log("overload", 10, tmp_path / "a.steps.jsonl", TRUE.latency.on_host(slowness))
    assert host(read_logs([path]), TRUE.latency) == pytest.approx(slowness, rel=0.05)


def test_a_profile_without_the_lines_is_left_alone(logs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("summary = 'x'\n")
    with pytest.raises(SystemExit, match="there is no line"):
        write(path, {"decode_ms": []})
    assert path.read_text() == "summary = 'x'\n"
