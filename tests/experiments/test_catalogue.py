"""The artifact's files are simulated with the settings that they were measured with."""

import csv
from pathlib import Path

import pytest

from fairlane.experiments.catalogue import DEFAULT_COLD_START_S, catalogue, find_experiment
from fairlane.experiments.settings import Settings
from fairlane.records import read_run

PROFILES = {
    ("a10g-llama-2-7b", "2023-12"): "a10g-llama-2-7b-2023",
    ("a10g-llama-2-7b", "2024-04"): "a10g-llama-2-7b",
    ("a100-80g-llama-2-13b", "2023-12"): "a100-llama-2-13b",
}
CHARGING = {"V1": "step-start", "V2": "step-start-and-finish"}


def settings_of(file: str) -> Settings:
    experiment = find_experiment(file)
    assert experiment is not None, file
    return experiment.settings


def sent_by(settings: Settings) -> list[tuple[str, float, int, int]]:
    return [(r.client, r.arrival_s, r.prompt_len, r.output_len) for r in settings.requests()]


def test_agrees_with_the_list_of_runs(reference_dir: Path) -> None:
    with (reference_dir / "runs.csv").open(newline="") as file:
        listed = {row["file"]: row for row in csv.DictReader(file)}
    known = {experiment.file: experiment for experiment in catalogue()}
    assert known.keys() == listed.keys()
    for name, row in listed.items():
        settings = known[name].settings
        options = dict(option.split("=") for option in row["options"].split())
        delay = row["first_request_delay_s"]
        assert settings.profile == PROFILES[row["hardware"], row["epoch"]], name
        assert settings.memory_tokens == int(row["memory_tokens"]), name
        assert settings.scheduler == row["scheduler"], name
        assert settings.charging == CHARGING[row["server_version"]], name
        assert settings.cost == options.get("cost", "linear"), name
        assert ",".join(f"{w:g}" for w in settings.weights) == options.get("weights", ""), name
        assert (settings.predict_range or 0) == float(options.get("predict_range", 0)), name
        assert (settings.rate_limit or 0) == int(options.get("rate_limit", 0)), name
        assert settings.first_prefill_delay_s == float(delay or DEFAULT_COLD_START_S), name
        if row["role"] == "fit":
            assert known[name].fitted, name


def test_the_suites_are_what_was_measured(reference_dir: Path) -> None:
    measured = [e for e in catalogue() if (reference_dir / "measured" / e.file).is_file()]
    assert len(measured) >= 12
    for experiment in measured:
        path = reference_dir / "measured" / experiment.file
        responses = read_run(path).records
        sent = [(r.client, r.arrival_s, r.prompt_len, r.output_len) for r in responses]
        assert sent_by(experiment.replay(path)) == sent, experiment.file
        if experiment.settings.suite != "real":
            assert sent_by(experiment.settings) == sent, experiment.file


def test_a_folder_tells_the_scheduler_of_a_file_that_is_not_listed() -> None:
    experiment = find_experiment("VTC_pred_50_profile/all_results_real.jsonl")
    assert experiment is not None
    assert "assumed" in experiment.note
    settings = experiment.settings
    assert (settings.scheduler, settings.predict_range) == ("vtc-oracle", 0.5)
    assert (settings.cost, settings.charging) == ("quadratic", "step-start-and-finish")
    assert settings_of("LShare/rpm7/all_results_real.jsonl").rate_limit == 7
    assert settings_of("sec6.4/80000/FCFS-512/all_results_overload-s4.jsonl").memory_tokens == 80000


def test_copies_without_a_folder_are_the_files_of_vtc() -> None:
    assert settings_of("all_results_increase.jsonl") == settings_of(
        "VTC/all_results_increase.jsonl"
    )


@pytest.mark.parametrize(
    "file",
    ["MINE/all_results_overload.jsonl", "VTC/debug_overload.jsonl", "VTC/all_results_real.csv"],
)
def test_nothing_is_made_up_for_other_files(file: str) -> None:
    assert find_experiment(file) is None


def test_only_vtc_departs_from_the_paper_in_its_lift() -> None:
    lifted = {e.settings.scheduler for e in catalogue() if e.settings.artifact_lift}
    assert lifted == {"vtc", "vtc-oracle", "vtc-predict"}
