"""`fairlane demo --live`: the gateway before one's eyes."""

import os
import select
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from fairlane.cli.output import print_json, print_table, say
from fairlane.cli.top import drawn

if TYPE_CHECKING:
    from fairlane.experiments.show import Act, Show

_LOOK_S = 1.0
_NAMES = {"fcfs": "first come, first served", "vtc": "VTC"}
_COLUMNS = (
    "scheduler ", "light: first token (s)", "worst (s)", "share", "flood: first token (s)", "share",
)  # fmt: skip
Pressed = Callable[[float], bool]
Draw = Callable[["Show", str], None]


def show_live(port: int, seconds: float, browser: bool, json: bool) -> None:
    """Play it: half of the time each scheduler, or until a key."""
    from fairlane.experiments.show import SCHEDULERS, UNDER_WAY, Show

    acts: list[Act] = []
    with Show(port) as show:
        _tell_where(show.url, browser)
        with _keys() as pressed, _screen(json) as draw:
            for scheduler in SCHEDULERS:
                if acts:
                    show.switch()
                say(f"now {_NAMES[scheduler]}")
                _play(show, seconds / len(SCHEDULERS), pressed, draw)
                acts.append(show.act())
        url = show.url
    if json:
        print_json({"url": url, "acts": [asdict(act) for act in acts]})
        return
    counts = " and ".join(f"{name} has {count}" for name, count in UNDER_WAY.items())
    print_table(_COLUMNS, [_row(act) for act in acts], f"{counts} requests under way at any time")


def _tell_where(url: str, browser: bool) -> None:
    page = f"{url}/fairlane/"
    say(f"watch it: {page}")
    windows = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if browser and windows:  # else it might be one that takes this very terminal
        webbrowser.open(page)


def _play(show: "Show", seconds: float, pressed: Pressed, draw: Draw) -> None:
    """One act, to its end or a key."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if show.enough() and left <= 0:
            return
        if pressed(min(_LOOK_S, max(left, 0.05))):
            return
        draw(show, f"{max(left, 0):.0f} s left, or press a key")


@contextmanager
def _screen(json: bool) -> Iterator[Draw]:
    """Draws who gets what, where somebody looks."""
    if json or not sys.stdout.isatty():
        yield lambda show, hint: None
        return
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, transient=True) as live:

        def draw(show: "Show", hint: str) -> None:
            told = show.act()
            waits = ", ".join(
                f"{name} {_number(got.first_token_s)} s" for name, got in told.tenants.items()
            )
            heading = f"{_NAMES[told.scheduler]}: {hint}\nto the first token: {waits}"
            live.update(Group(Text(heading, style="bold"), drawn(show.look())), refresh=True)

        yield draw


@contextmanager
def _keys() -> Iterator[Pressed]:
    """Waits so many seconds for a key; answers whether one was pressed."""
    try:
        import termios
        import tty

        handle = sys.stdin.fileno()
        mine = os.isatty(handle) and os.tcgetpgrp(handle) == os.getpgrp()
    except (ImportError, OSError, ValueError, AttributeError):  # Windows, or no standard input
        mine = False
    if not mine:
        yield _nobody_presses
        return
    before = termios.tcgetattr(handle)
    tty.setcbreak(handle)  # Ctrl-C is still one

    def pressed(seconds: float) -> bool:
        found, _, _ = select.select([handle], [], [], seconds)
        return bool(found) and bool(os.read(handle, 64))

    try:
        yield pressed
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def _nobody_presses(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _row(act: "Act") -> list[str]:
    light, flood = act.tenants["light"], act.tenants["flood"]
    return [
        _NAMES[act.scheduler], _number(light.first_token_s), _number(light.worst_s),
        _share(light.share), _number(flood.first_token_s), _share(flood.share),
    ]  # fmt: skip


def _number(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


def _share(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"
