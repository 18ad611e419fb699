"""The simulator against what the paper's authors measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from fairlane.experiments.catalogue import find_experiment
from fairlane.experiments.compare import cold_start_s, compare, error_medians
from fairlane.records import read_run
from fairlane.simulator.randomness import Randomness
from fairlane.simulator.serving import NO_NOISE, ServerConfig
from tests.simulator.replay import Replay

# Batches that the queue predicts exactly, of all batches that were measured.
EXACT = {
    "FCFS/all_results_overload.jsonl": 1.0,
    "FCFS/all_results_poisson_on_off_overload.jsonl": 1.0,
    "VTC/all_results_proportional.jsonl": 1.0,
    "VTC/all_results_overload.jsonl": 1.0,
    "VTC/all_results_real.jsonl": 0.98,
    "sec6.4/35000/VTC-512/all_results_overload-s4.jsonl": 0.9,
}


def replay(path: Path, settings_of: str) -> tuple[int, int]:
    """(batches predicted exactly, batches) of a measured file under the settings of a file."""
    experiment = find_experiment(settings_of)
    assert experiment is not None
    run, settings = read_run(path), experiment.replay(path)
    requests, server = settings.requests(), settings.server()
    assert isinstance(server, ServerConfig)
    server = replace(server, first_prefill_delay_s=cold_start_s(run, server), noise=NO_NOISE)
    measured = {
        i: (record.arrival_s + record.ttft_s, record.arrival_s + record.latency_s)
        for i, record in enumerate(run.records)
        if record.ttft_s is not None and record.latency_s is not None
    }
    policy, randomness = settings.policy(requests), Randomness(0, server.noise)
    return Replay(requests, policy, server, randomness, measured=measured).replay()


@pytest.mark.parametrize("file", EXACT)
def test_one_step_replay_predicts_the_measured_batches(reference_dir: Path, file: str) -> None:
    exact, batches = replay(reference_dir / "measured" / file, file)
    assert exact >= EXACT[file] * batches
    assert batches > 200


def test_replay_with_the_wrong_scheduler_fails(reference_dir: Path) -> None:
    """The negative control: a queue that was not the measured one predicts few batches."""
    measured = reference_dir / "measured" / "VTC/all_results_overload.jsonl"
    exact, batches = replay(measured, "FCFS/all_results_overload.jsonl")
    assert exact < 0.8 * batches


def test_ensembles_are_as_near_as_promised(reference_dir: Path) -> None:
    """Medians over the files here; those that took no part in the fit are few, so all count."""
    comparison = compare(reference_dir / "measured", runs=8)
    medians = {row.metric: row for row in error_medians(comparison)}
    assert medians["total_time"].all_files <= 0.003
    assert medians["mean_first_token_latency"].all_files <= 0.01
    assert medians["max_accumulated_service_difference"].all_files <= 0.015
    assert medians["table_max_difference"].all_files <= 0.04
    assert medians["table_average_difference"].all_files <= 0.04
    assert medians["aborted"].all_files == 0
