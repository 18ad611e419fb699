"""The artifact's pickled trace is read, and nothing in a pickle is ever run."""

import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlane.workloads import TracedRequest, TraceError, import_artifact_pickle

Dump = Callable[..., Path]


@pytest.fixture
def request_class(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class that pickles under the artifact's name for it."""
    request = type("Request", (), {"__module__": "trace"})
    module = types.ModuleType("trace")
    module.Request = request  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trace", module)
    return request


@pytest.fixture
def dump(request_class: type, tmp_path: Path) -> Dump:
    """Pickle requests, given as (adapter, time, prompt, output), as the artifact does."""

    def write(*rows: tuple[Any, Any, Any, Any], protocol: int = 4) -> Path:
        requests = []
        for i, (adapter, time, prompt_len, output_len) in enumerate(rows):
            request = request_class()
            request.__dict__.update(
                req_id=i, model_dir="huggyllama/llama-7b", adapter_dir=adapter, req_time=time,
                prompt="Hello " * 5, prompt_len=prompt_len, output_len=output_len,
            )  # fmt: skip
            requests.append(request)
        path = tmp_path / "real_trace.pkl"
        path.write_bytes(pickle.dumps([["dummy-lora-7b-rank-8-0"], requests], protocol))
        return path

    return write


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_requests_come_out_with_their_clients_number(dump: Dump, protocol: int) -> None:
    path = dump(
        ("dummy-lora-7b-rank-8-13", 0.0, 13, 199), ("lora-2", 0.25, 36, 137), protocol=protocol
    )
    assert import_artifact_pickle(path) == [
        TracedRequest(0, "13", 0.0, 13, 199),
        TracedRequest(1, "2", 0.25, 36, 137),
    ]


@pytest.mark.parametrize("protocol", [3, 4])
def test_numpy_numbers_are_read_without_numpy(dump: Dump, protocol: int) -> None:
    path = dump(
        ("x-1", np.float64(0.1), np.int64(2**40), np.int32(7)),
        ("x-1", np.float32(0.5), np.dtype(">i8").type(3), 4),
        protocol=protocol,
    )
    assert import_artifact_pickle(path) == [
        TracedRequest(0, "1", 0.1, 2**40, 7),
        TracedRequest(1, "1", 0.5, 3, 4),
    ]


class Bomb:
    """Makes a file when unpickled by a trusting reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused_unrun(tmp_path: Path) -> None:
    evil, victim = tmp_path / "evil.pkl", tmp_path / "made"
    evil.write_bytes(pickle.dumps([[], [Bomb(victim)]]))
    with pytest.raises(TraceError, match=r"evil\.pkl: asks for (posix|nt)\.mkdir.*nothing was run"):
        import_artifact_pickle(evil)
    assert not victim.exists()
    pickle.loads(evil.read_bytes())  # the control: a trusting reader runs it
    assert victim.exists()


@pytest.mark.parametrize("dangerous", [eval, exec, getattr, __import__, print])
def test_builtins_are_refused(tmp_path: Path, dangerous: Any) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(dangerous))
    with pytest.raises(TraceError, match=f"builtins.{dangerous.__name__}"):
        import_artifact_pickle(path)


def test_a_stand_in_cannot_be_called_with_arguments(tmp_path: Path) -> None:
    path = tmp_path / "t.pkl"
    path.write_bytes(b"ctrace\nRequest\n(S'argument'\ntR.")
    with pytest.raises(TraceError, match="not a pickled trace"):
        import_artifact_pickle(path)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (("x-1", -0.5, 5, 5), "request 1: arrival_s must be seconds >= 0"),
        (("x-1", float("nan"), 5, 5), "request 1: arrival_s"),
        (("x-1", 0.5, 5, 5), "request 1: arrival_s 0.5 is before"),
        (("x-1", 2.0, 0, 5), "request 1: prompt_len and output_len must be at least 1"),
        (("x-1", 2.0, 5.5, 5), "request 1: a length must be a whole number"),
        ((None, 2.0, 5, 5), "request 1: "),
        (("x-1", "later", 5, 5), "request 1: "),
    ],
)
def test_requests_that_make_no_trace_are_named(
    dump: Dump, row: tuple[Any, Any, Any, Any], complaint: str
) -> None:
    path = dump(("x-1", 1.0, 5, 5), row)
    with pytest.raises(TraceError) as caught:
        import_artifact_pickle(path)
    assert str(caught.value).startswith(f"{path}: not a trace of the artifact: {complaint}")


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1, 2, 3])[:-4]])
def test_files_that_are_no_pickle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.pkl"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"t\.pkl: not a pickled trace"):
        import_artifact_pickle(path)


@pytest.mark.parametrize("content", [None, [], [[], []], [[], 5], {"a": 1}, [[], [1]]])
def test_pickles_of_something_else(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "t.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(TraceError, match=r"t\.pkl: not a trace of the artifact"):
        import_artifact_pickle(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no\.pkl: cannot be read"):
        import_artifact_pickle(tmp_path / "no.pkl")
