"""Many runs on all cores: jobs by key, their results as they complete, and a cache on disk.

An ensemble is one run repeated with other seeds: equal workloads can settle into several rhythms
that a tiny perturbation picks, so results are shown as a median and a range over an ensemble.
"""

import dataclasses
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fairlane.core.errors import FairlaneError
from fairlane.experiments.settings import Settings

K = TypeVar("K")
J = TypeVar("J")
R = TypeVar("R")
Progress = Callable[[int, int, str], None]  # (jobs done, jobs in all, the key of the last one)


def seeds(settings: Settings, runs: int) -> list[Settings]:
    """`settings` with `runs` consecutive seeds, from its own on."""
    return [dataclasses.replace(settings, seed=settings.seed + i) for i in range(runs)]


def run_jobs(
    function: Callable[[J], R],
    jobs: Mapping[K, J],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[K, R]]:
    """(key, function(job)) of every job, as they complete, in whatever order.

    `function` must be importable (not a lambda), jobs and results must pickle. workers: processes;
    None takes one per core, 1 works in this process. An error ends all jobs: FairlaneError is
    raised again with the job's key before its message, other errors with a note of it. When the
    caller is interrupted or stops early, the workers are ended where they are; a job that writes
    files through `fairlane.files` leaves none half written.
    """
    count = min(workers or os.cpu_count() or 1, len(jobs))
    results = _in_turn(function, jobs) if count <= 1 else _in_parallel(function, jobs, count)
    for done, (key, result) in enumerate(results, start=1):
        if progress is not None:
            progress(done, len(jobs), str(key))
        yield key, result


def _in_turn(function: Callable[[J], R], jobs: Mapping[K, J]) -> Iterator[tuple[K, R]]:
    for key, job in jobs.items():
        try:
            result = _call(function, job)
        except Exception as error:
            raise _named(error, key) from error
        yield key, result


def _in_parallel(
    function: Callable[[J], R], jobs: Mapping[K, J], workers: int
) -> Iterator[tuple[K, R]]:
    # spawn: the one start method that works everywhere and is safe beside threads
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(workers, context, initializer=_obey_the_parent)
    finished = False
    try:
        keys: dict[Future[R], K] = {
            executor.submit(_call_in_worker, function, job): key for key, job in jobs.items()
        }
        for future in as_completed(keys):
            key = keys.pop(future)  # forgets the result: ensembles are large
            try:
                result = future.result()
            except Exception as error:
                raise _named(error, key) from error
            yield key, result
        finished = True
    finally:
        if not finished:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
        executor.shutdown(cancel_futures=True)


def _obey_the_parent() -> None:
    """In a worker: leave Ctrl-C, which reaches all processes, to the parent, and end when told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    """End in order, once: the pool tells its workers, too, as soon as one of them has ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _call_in_worker(function: Callable[[J], R], job: J) -> R:
    try:
        return _call(function, job)
    except SystemExit:  # told to end: files half written are removed by now
        os._exit(1)


def _call(function: Callable[[J], R], job: J) -> R:
    """An error must survive the way back from a worker, and subclasses need not pickle."""
    try:
        return function(job)
    except FairlaneError as error:
        raise FairlaneError(str(error)) from None


def _named(error: Exception, key: object) -> Exception:
    """`error`, saying which job it befell."""
    if isinstance(error, FairlaneError):
        return FairlaneError(f"{key}: {error}")
    if isinstance(error, BrokenProcessPool):
        return FairlaneError(
            f"{key}: a worker process died, perhaps for want of memory; try fewer workers"
        )
    error.add_note(f"in the job {key}")
    return error
