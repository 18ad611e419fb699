"""Samples on disk: the same as simulated, found again, never mixed up, never trusted blindly."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fairlane.experiments.ensemble import seeds
from fairlane.experiments.samples import Sample, SampleStore
from fairlane.experiments.settings import Settings
from fairlane.metrics import Table, headline
from fairlane.records import write_jsonl

SHORT = Settings(suite="overload", scheduler="vtc", duration=20)


def columns(table: Table) -> dict[str, list[object]]:
    return {field.name: list(getattr(table, field.name)) for field in dataclasses.fields(Table)}


def test_a_stored_sample_is_the_run_to_the_last_bit(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    assert store.load(SHORT) is None
    assert store.simulate([SHORT]) == 1
    sample, run = store.load(SHORT), SHORT.run()
    assert sample is not None
    np.testing.assert_equal(columns(sample.table), columns(Table.from_records(run.records)))
    assert sample.total_time_s == run.total_time_s
    assert sample.headline == headline(run)


def test_only_what_is_missing_is_simulated_and_progress_counts_all(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    assert store.simulate(seeds(SHORT, 2), workers=2) == 2
    seen: list[tuple[int, int]] = []
    wanted = [*seeds(SHORT, 4), SHORT]  # one is wanted twice
    assert store.simulate(wanted, progress=lambda done, total, _: seen.append((done, total))) == 2
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert store.simulate(wanted) == 0


@pytest.mark.parametrize("damage", [b"", b"not a sample", None])
def test_a_damaged_sample_is_simulated_again(tmp_path: Path, damage: bytes | None) -> None:
    store = SampleStore(tmp_path)
    store.simulate([SHORT])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert store.load(SHORT) is None
    assert store.simulate([SHORT]) == 1
    assert store.load(SHORT) is not None


def test_every_setting_tells_samples_apart(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    store.simulate([SHORT])
    for change in ({"seed": 1}, {"scheduler": "fcfs"}, {"duration": 21.0}, {"noise": False}):
        assert store.load(dataclasses.replace(SHORT, **change)) is None


def test_a_trace_counts_by_what_is_in_it_not_by_its_name(tmp_path: Path) -> None:
    store = SampleStore(tmp_path / "samples")
    trace, copy = tmp_path / "trace.csv", tmp_path / "copy.csv"
    header = "client,arrival_s,prompt_len,output_len\n"
    trace.write_text(header + "a,0.5,10,20\n")
    copy.write_text(header + "a,0.5,10,20\n")
    settings = Settings(suite="real", scheduler="vtc", trace=str(trace))
    store.simulate([settings])
    assert store.load(dataclasses.replace(settings, trace=str(copy))) is not None
    trace.write_text(header + "a,0.5,10,21\n")
    assert store.load(settings) is None


def test_a_result_file_gives_the_same_sample_as_its_run(tmp_path: Path) -> None:
    run = SHORT.run()
    write_jsonl(tmp_path / "run.jsonl", run)
    read = Sample.read(tmp_path / "run.jsonl")
    np.testing.assert_equal(columns(read.table), columns(Sample.of(run).table))
    assert read.headline == headline(run)
