"""The demonstration that one watches: what it shows is so, and it ends by itself, or when told."""

import json
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PATIENCE_S, started
from tests.talking import until

DEMO = (sys.executable, "-m", "fairlane", "demo", "--live")


def seen(url: str) -> set[str]:
    """Of whom the gateway tells."""
    with urllib.request.urlopen(f"{url}/fairlane/tenants", timeout=PATIENCE_S) as answer:
        return set(json.load(answer)["clients"])


def address(errors: Any) -> str:
    """Where the gateway is, once that was said."""
    for line in errors:
        if line.startswith("watch it: "):
            return str(line.split()[-1]).removesuffix("/fairlane/")
    raise AssertionError("it did not say where to watch it")


@pytest.mark.slow
def test_the_light_tenant_waits_no_more_behind_the_flood() -> None:
    """All that is seen is told in the end; while it runs, whoever comes sees it, without a key."""
    with started(*DEMO, "--seconds", "2", "--json", "--no-browser") as process:
        url = address(process.stderr)
        until(lambda: {"flood", "light"} <= seen(url))
        printed, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    before, after = json.loads(printed)["acts"]
    assert (before["scheduler"], after["scheduler"]) == ("fcfs", "vtc")
    for act in (before, after):
        assert all(got["requests"] >= 3 for got in act["tenants"].values())
        assert sum(got["share"] for got in act["tenants"].values()) == pytest.approx(1)
    light, then = before["tenants"]["light"], after["tenants"]["light"]
    flood = before["tenants"]["flood"]
    assert light["first_token_s"] > 0.5 * flood["first_token_s"]  # all wait alike
    assert then["first_token_s"] < light["first_token_s"] / 3
    assert then["share"] > 2 * light["share"]


def test_ctrl_c_ends_it_without_a_word() -> None:
    with started(*DEMO, "--seconds", "600", "--json") as process:
        address(process.stderr)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, printed) == (130, "")
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_said() -> None:
    with started(*DEMO, "--seconds", "600") as process:
        port = address(process.stderr).rpartition(":")[2]
        done = subprocess.run([*DEMO, "--port", port], capture_output=True, text=True, check=False)
        process.kill()
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_keys_switch_and_end_it(tmp_path: Path) -> None:
    """In a terminal, which is as it was afterwards."""
    screen, terminal = pty.openpty()
    with subprocess.Popen(
        [*DEMO, "--seconds", "600"], stdin=terminal, stdout=terminal, stderr=subprocess.PIPE,
        start_new_session=True, preexec_fn=_take_terminal, env={**os.environ, "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(terminal)
        texts = read_on(screen)
        try:
            told = next(text for text in texts if "first come, first served: " in text)
            assert "press a key" in told
            os.write(screen, b" ")
            next(text for text in texts if "VTC: " in text)
            os.write(screen, b"x")
            *_, end = texts
        finally:
            process.kill()
            errors = process.stderr.read().decode() if process.stderr else ""
    os.close(screen)
    assert process.returncode == 0, errors
    assert "scheduler" in end
    assert "VTC" in end


def _take_terminal() -> None:
    """Standard input is the terminal of this process, which is in its foreground."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_on(screen: int) -> Iterator[str]:
    """All that was written so far, again and again, until its end."""
    text = ""
    with suppress(OSError):  # on Linux, once nobody has the terminal
        while part := os.read(screen, 1 << 16):
            text += part.decode(errors="replace")
            yield text
