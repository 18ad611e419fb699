"""Reads the artifact's `real_trace.pkl` without executing anything in it.

The file is a pickle of a list of two: the adapters' names, and the requests, objects of a class
`trace.Request`. A pickle may name any function for its reader to call. This reader knows four
names, and each stands for an inert class below; any other name ends the reading.
"""

import os
import pickle
import struct
from typing import Any

from fairlane.workloads.trace import TracedRequest, TraceError, check


class _Request:
    """Stands for the artifact's request: takes attributes and does nothing."""


class _DType:
    """Stands for `numpy.dtype`: its code such as f8 and its byte order."""

    def __init__(self, code: str, *_flags: Any) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


class _Scalar(float):
    """Stands for a numpy number: unpacked from its bytes, whole or not."""

    FORMATS = {"f4": "f", "f8": "d", "i4": "i", "i8": "q", "u4": "I", "u8": "Q"}  # noqa: RUF012

    def __new__(cls, dtype: _DType, raw: bytes) -> "_Scalar":
        return super().__new__(cls, struct.unpack(dtype.order + cls.FORMATS[dtype.code], raw)[0])


_STAND_INS: dict[tuple[str, str], type] = {
    ("trace", "Request"): _Request,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _STAND_INS:
            raise TraceError(f"asks for {module}.{name}, which no trace needs; nothing was run")
        return _STAND_INS[module, name]


def import_artifact_pickle(path: str | os.PathLike[str]) -> list[TracedRequest]:
    """The requests of the artifact's pickled trace; the client is its adapter's number.

    Ids count from 0. Raises TraceError, naming the file, for anything else than such a trace.
    """
    try:
        with open(path, "rb") as file:
            content = _InertUnpickler(file).load()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({(error.strerror or '').lower()})") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    except Exception as error:  # a malformed pickle may raise anything
        raise TraceError(f"{path}: not a pickled trace ({error})") from error
    try:
        _adapters, responses = content
        return _requests(responses)
    except (ValueError, TypeError, AttributeError) as error:
        raise TraceError(f"{path}: not a trace of the artifact: {error}") from error


def _requests(pickled: list[Any]) -> list[TracedRequest]:
    requests: list[TracedRequest] = []
    for number, item in enumerate(pickled):
        try:
            request = TracedRequest(
                id=number,
                client=item.adapter_dir.rpartition("-")[2],
                arrival_s=float(item.req_time),
                prompt_len=_whole(item.prompt_len),
                output_len=_whole(item.output_len),
            )
            check(request, requests[-1].arrival_s if requests else 0.0)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"request {number}: {error}") from None
        requests.append(request)
    if not requests:
        raise ValueError("it holds no requests")
    return requests


def _whole(value: Any) -> int:
    if int(value) != value:
        raise ValueError(f"a length must be a whole number, not {value!r}")
    return int(value)
