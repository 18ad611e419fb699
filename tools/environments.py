"""An environment beside .venv, made by a recipe and left alone while the recipe is the same.

What an environment needs besides is in its own script: vllm_env.py, ray_env.py.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_AVAILABLE = 3  # exit code of a script whose environment this machine cannot have
_HEADER = """\
# Exact versions of what {folder} holds. Written by `{command} --lock`.
"""


class NotAvailable(Exception):
    """What this machine lacks for an environment."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment in the checkout's root.

    folder: its name. constraints: the file in tools/ with exact versions. command: what makes it.
    parts: whatever else its content depends on.
    """

    folder: str
    constraints: str
    command: str
    parts: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it is."""
        return ROOT / self.folder

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return next((self.path / "lib").glob("python3*")) / "site-packages"

    @property
    def _constraints(self) -> Path:
        return ROOT / "tools" / self.constraints

    @property
    def _stamp(self) -> Path:
        """The file that says that it is complete."""
        return self.path / ".complete"

    def recipe(self) -> str:
        """A name for what would be installed: changes with versions, Python's and packages'."""
        pinned = self._constraints.read_text() if self._constraints.exists() else ""
        ours = (ROOT / "pyproject.toml").read_text()  # its entry points are installed, too
        parts = (*self.parts, pinned, ours, sys.version)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def pip(self, *arguments: str, constrained: bool = True) -> None:
        """Run its pip. Raises CalledProcessError with what pip said."""
        command = [str(self.path / "bin" / "python"), "-m", "pip", "-q"]
        command += ["--disable-pip-version-check", *arguments]
        if constrained and self._constraints.exists():
            command += ["-c", str(self._constraints)]
        subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)

    def start_anew(self) -> None:
        """Make it empty, with pip alone."""
        shutil.rmtree(self.path, ignore_errors=True)
        venv.create(self.path, with_pip=True)

    def make(self, create: Callable[[], None], *, lock: bool, own: Iterable[str]) -> None:
        """Have `create` make it unless it is complete; one process at a time. Exits on failure.

        lock: with today's versions, which are noted but for `own`, whose names begin so.
        """
        with open(ROOT / f"{self.folder}.lock", "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if lock:
                self._constraints.unlink(missing_ok=True)
            elif self._stamp.exists() and self._stamp.read_text() == self.recipe():
                return
            try:
                create()
            except NotAvailable as error:
                shutil.rmtree(self.path, ignore_errors=True)
                print(f"{self.command}: {error}", file=sys.stderr)
                raise SystemExit(NOT_AVAILABLE) from None
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"{self.command}: {error}\n{error.stderr}") from None
            if lock:
                self._write_constraints(tuple(own))
            self._stamp.write_text(self.recipe())

    def _write_constraints(self, own: tuple[str, ...]) -> None:
        frozen = subprocess.run(
            [str(self.path / "bin" / "python"), "-m", "pip", "freeze", "--exclude-editable",
             "--path", str(self.packages)],
            check=True, capture_output=True, text=True,
        ).stdout.split("\n")  # fmt: skip
        lines = [line for line in frozen if "==" in line and not line.startswith(own)]
        header = _HEADER.format(folder=self.folder, command=self.command)
        self._constraints.write_text(header + "\n".join(lines) + "\n")


def parse_options(document: str) -> argparse.Namespace:
    """The options of a script that makes an environment; its docstring is the help."""
    parser = argparse.ArgumentParser(description=document.split("\n")[0])
    parser.add_argument("--lock", action="store_true", help="move to today's versions")
    parser.add_argument(
        "--torch-index",
        default=os.environ.get("FAIRLANE_TORCH_INDEX"),
        help="package index with PyTorch's CPU builds, where the usual one has none",
    )
    return parser.parse_args()
