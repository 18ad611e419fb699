"""Jobs on all cores: every result with its key, errors that name their job, a clean Ctrl-C."""

import os
import sys
import textwrap
from pathlib import Path

import pytest

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.experiments.ensemble import run_jobs, seeds
from fairlane.experiments.settings import Settings
from tests.processes import PATIENCE_S, started


def square(x: int) -> int:
    return x * x


def fail_on_two(x: int) -> int:
    if x == 2:
        raise UnknownNameError("number", "two", ["one"])
    return x


def divide_by(x: int) -> float:
    return 1 / x


def die(x: int) -> None:
    os._exit(3)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_result_comes_with_its_key_and_progress_counts_them(workers: int) -> None:
    seen: list[tuple[int, int, str]] = []
    jobs = {f"job {x}": x for x in range(7)}

    def progress(done: int, total: int, label: str) -> None:
        seen.append((done, total, label))

    results = dict(run_jobs(square, jobs, workers=workers, progress=progress))
    assert results == {f"job {x}": x * x for x in range(7)}
    assert [done for done, _, _ in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert {total for _, total, _ in seen} == {7}
    assert {label for _, _, label in seen} == set(jobs)


def test_no_jobs_give_no_results() -> None:
    assert list(run_jobs(square, {})) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_job(workers: int) -> None:
    with pytest.raises(FairlaneError, match=r"^job b: unknown number"):
        dict(run_jobs(fail_on_two, {"job a": 1, "job b": 2, "job c": 3}, workers=workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_in_the_code_keeps_its_type_and_notes_its_job(workers: int) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        dict(run_jobs(divide_by, {"a": 0, "b": 0}, workers=workers))
    assert caught.value.__notes__[0] in ("in the job a", "in the job b")


def test_a_worker_that_dies_is_one_clear_line() -> None:
    with pytest.raises(FairlaneError, match="a worker process died"):
        dict(run_jobs(die, {"a": 1, "b": 2}, workers=2))


def test_an_interrupt_ends_the_workers_at_once_and_leaves_no_half_written_file(
    tmp_path: Path,
) -> None:
    """Ctrl-C while one job is inside `atomic_write` and would go on for an hour."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import atexit, os, signal, sys, time
            from pathlib import Path
            from fairlane.experiments.ensemble import run_jobs
            from fairlane.files import atomic_write

            def job(name):
                if name == "quick":
                    while not any(Path("out").glob(".slow*")):
                        time.sleep(0.01)
                    # told to end for a second time while it ends, as a pool may do
                    atexit.register(os.kill, os.getpid(), signal.SIGTERM)
                    return name
                with atomic_write("out/slow") as file:
                    file.write("half")
                    file.flush()
                    time.sleep(3600)

            if __name__ == "__main__":
                try:
                    for key, _ in run_jobs(job, {"quick": "quick", "slow": "slow"}, workers=2):
                        os.killpg(0, signal.SIGINT)  # as a terminal does
                        time.sleep(3600)
                except KeyboardInterrupt:
                    sys.exit(130)
        """)
    )
    with started(sys.executable, script.name, cwd=tmp_path, new_session=True) as process:
        _, complaint = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, complaint) == (130, "")
    assert list((tmp_path / "out").iterdir()) == []


def test_seeds_are_consecutive_from_the_settings_own() -> None:
    settings = Settings(suite="overload", scheduler="vtc", seed=5)
    assert [s.seed for s in seeds(settings, 3)] == [5, 6, 7]
    assert {s.suite for s in seeds(settings, 3)} == {"overload"}
