"""What `make wheel` makes is all that a user needs: installed by itself, the command works."""

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

import fairlane

ROOT = Path(__file__).resolve().parents[1]
TRACE = "client,arrival_s,prompt_len,output_len\na,0.0,16,8\nb,0.5,32,4\na,1.0,16,8\n"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made as the Makefile makes it, but elsewhere."""
    folder = tmp_path_factory.mktemp("dist")
    told = subprocess.run(
        ["make", "-n", "wheel", f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    [command] = re.findall(r"^.* pip wheel .*$", told, flags=re.MULTILINE)
    command = command.replace(" dist ", f" {folder} ")
    subprocess.run(["sh", "-c", command], cwd=ROOT, check=True)
    [made] = folder.iterdir()
    return made


class Installed:
    """An environment with the wheel and what it asks for, and nothing else."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self.pip("install", str(wheel))

    def pip(self, *arguments: str) -> None:
        """Run its pip, held to the versions of the tests' own environment."""
        environment = os.environ | {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
        command = [str(self.folder / "venv/bin/python"), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*command, "-q", *arguments], env=environment, check=True)

    def fairlane(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the command as it was installed, far from the checkout."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            [self.folder / "venv/bin/fairlane", *arguments],
            cwd=self.folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def answer(self, *arguments: str) -> str:
        """What it prints where it succeeds."""
        done = self.fairlane(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("elsewhere"), wheel)


def test_it_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "fairlane"
    ours = {
        str(path.relative_to(package.parent))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"fairlane/py.typed", "fairlane/simulator/profiles/a10g-llama-2-7b.toml"} < ours
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == ours


def test_the_command_works_where_nothing_else_is_installed(installed: Installed) -> None:
    assert installed.answer("--version") == f"fairlane {fairlane.__version__}\n"
    (installed.folder / "trace.csv").write_text(TRACE)
    demo = json.loads(installed.answer("demo", "--trace", "trace.csv", "--workers", "1", "--json"))
    schedulers = {row["scheduler"] for row in next(iter(demo["outcomes"].values()))}
    assert {"FCFS", "VTC"} <= schedulers
    profiles = {row["name"] for row in json.loads(installed.answer("profiles", "--json"))}
    assert profiles == {path.stem for path in ROOT.glob("src/fairlane/simulator/profiles/*.toml")}


def test_what_an_error_says_to_install_helps(installed: Installed) -> None:
    bench = ("bench", "overload", "--server", "http://127.0.0.1:1")
    told = re.search(r"not installed: pip (install aiohttp)$", installed.fairlane(*bench).stderr)
    assert told, installed.fairlane(*bench).stderr
    installed.pip(*told[1].split())
    assert "http://127.0.0.1:1 cannot be reached" in installed.fairlane(*bench).stderr


def test_what_errors_say_to_install_is_what_the_extras_bring(
    installed: Installed, tmp_path: Path
) -> None:
    [metadata] = installed.folder.glob("venv/lib/python3*/site-packages/fairlane-*.dist-info")
    needs = PathDistribution(metadata).requires or []
    output = ("simulate", "overload", "--duration", "5", "--output", str(tmp_path / "x.parquet"))
    for arguments, extra in ((output, "parquet"), (("serve", "org/model"), "vllm")):
        done = installed.fairlane(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        told = re.search(r"not installed.*: pip install (\w+)$", done.stderr)
        assert told, done.stderr
        [need] = [need for need in needs if f"extra == '{extra}'" in need]
        assert re.match(rf"{told[1]}\b", need)
