"""The access log: a line of JSON for each request, at its end. Its part of the configuration:

    [log]
    access = "access.log"           # beside this file; "-" is standard output

Lines are made and written by a thread of their own, many at once, so that no request waits for a
disk. What cannot be written, as on a full disk, is lost and counted; the log of the server says so
once, and once it goes on. A file that was moved away is left for a new one of the old name, so
rotation needs no signal. All that a client may have sent is escaped: a line is a line.
"""

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.door.visits import Visit
from fairlane.files import stamp_of
from fairlane.validation import checked

STANDARD_OUTPUT = "-"
_MOST_WAITING = 10_000  # lines, until the disk takes them
_TOGETHER_S = 0.1  # lines of so long are written at once
_LONGEST = 256  # characters of what a client may name as it likes
_END_S = 2.0  # to write what is left
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_RIGHTS = 0o640  # less the umask: who asked for what is not for everyone
_STANDARD_OUTPUT = 1


@dataclass(frozen=True)
class _Log:
    """[log], as it is written."""

    access: str = ""


def parse_log(table: Mapping[str, Any], folder: Path) -> str:
    """Where the access log goes: a file's path, "-", or "" for nowhere. Raises FairlaneError."""
    named = _Log(**checked(_Log, table, what="key")).access
    if named in ("", STANDARD_OUTPUT):
        if not named and "access" in table:
            raise FairlaneError('access must name a file, or be "-" for standard output')
        return named
    return str(folder / named)


def line_of(visit: Visit) -> str:
    """A request as one line of JSON, without its end."""
    told = {
        "time": datetime.fromtimestamp(visit.at, UTC).isoformat(timespec="milliseconds"),
        "tenant": visit.client,
        "model": visit.model[:_LONGEST] or None,
        "upstream": visit.upstream or None,
        "method": visit.method,
        "route": visit.route[:_LONGEST],
        "status": visit.status,
        "code": visit.code or None,
        "stream": visit.stream,
        "prompt_tokens": visit.input_tokens,
        "cached_tokens": visit.cached_tokens,
        "output_tokens": visit.output_tokens,
        "service": visit.service,
        "queue_s": _rounded(visit.waited_s),
        "first_token_s": _rounded(visit.first_token_s),
        "duration_s": _rounded(visit.duration_s),
        "outcome": visit.outcome,
        "trace_id": visit.trace_id or None,
    }
    return json.dumps(told)  # in ASCII, so that nothing in it can end a line


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


class AccessLog:
    """See the module. path: a file, or "-". Raises FairlaneError where it cannot be opened."""

    def __init__(self, path: str, log: logging.Logger) -> None:
        self._path = path
        self._log = log
        self._waiting: deque[Visit] = deque()
        self._some = threading.Event()
        self._over = threading.Event()
        self._lost = 0
        self._begin = b""  # a line's end, after half a line
        self._handle = self._open()
        self._thread = threading.Thread(target=self._write_on, name="access log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def __call__(self, visit: Visit) -> None:
        """Note a request that is over."""
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(visit)
        self._some.set()

    def close(self) -> None:
        """Write what is left, as far as that can be soon."""
        self._over.set()
        self._some.set()
        self._thread.join(_END_S)  # a pipe that nobody reads may hold it for ever

    # -- in its own thread -------------------------------------------------------------------

    def _write_on(self) -> None:
        failing = False
        while not self._over.is_set() or self._waiting:
            self._some.wait()
            self._some.clear()
            self._over.wait(_TOGETHER_S)
            visits = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not visits:
                continue
            why = self._write(visits)
            if why and not failing:
                self._log.warning("the access log cannot be written (%s): lines are lost", why)
            elif self._lost and not why:
                self._log.warning("the access log goes on; %d lines were lost", self._lost)
                self._lost = 0
            failing = bool(why)
        if self._path != STANDARD_OUTPUT:
            os.close(self._handle)

    def _write(self, visits: list[Visit]) -> str:
        """Write lines; why that cannot be, or ""."""
        data = self._begin + b"".join(line_of(visit).encode() + b"\n" for visit in visits)
        written = 0
        try:
            self._reopen_if_moved()
            while written < len(data):
                written += os.write(self._handle, data[written:])
        except OSError as error:
            self._lost += min(len(visits), data.count(b"\n", written))
            if written:
                self._begin = b"" if data[:written].endswith(b"\n") else b"\n"
            return (error.strerror or str(error)).lower()
        self._begin = b""
        return ""

    def _reopen_if_moved(self) -> None:
        if self._path == STANDARD_OUTPUT:
            return
        found, here = stamp_of(Path(self._path)), os.fstat(self._handle)
        if found is None or found[2] != here.st_ino:
            before, self._handle = self._handle, os.open(self._path, _FLAGS, _RIGHTS)
            self._begin = b""
            os.close(before)

    def _open(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return _STANDARD_OUTPUT
        try:
            return os.open(self._path, _FLAGS, _RIGHTS)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise FairlaneError(f"[log] access: {self._path} cannot be opened ({why})") from None
