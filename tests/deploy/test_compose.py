"""The file of Compose is what Compose takes; the image is built of what the checkout has."""

import subprocess
import sys
from pathlib import Path

import yaml

from tests.deploy.files import DEPLOY, ROOT, compose


def check(path: Path) -> "subprocess.CompletedProcess[str]":
    """Hold a file against the published schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*command, path], capture_output=True, text=True, check=False)


def test_compose_takes_the_file() -> None:
    done = check(DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_misspelt_setting_would_be_found(tmp_path: Path) -> None:
    changed = compose()
    changed["services"]["gateway"]["stop_grace"] = "15m"
    path = tmp_path / "compose.yaml"
    path.write_text(yaml.safe_dump(changed))
    done = check(path)
    assert done.returncode == 1
    assert "stop_grace" in done.stdout


def test_what_is_commented_out_is_taken_too(tmp_path: Path) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    before, _, commented = text.partition("\n  # vllm:\n")
    lines = ["  vllm:", *(line.replace("  # ", "  ", 1) for line in commented.splitlines())]
    path = tmp_path / "compose.yaml"
    path.write_text(before + "\n" + "\n".join(lines) + "\n")
    assert "vllm" in yaml.safe_load(path.read_text())["services"]
    done = check(path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_built_of_what_is_there() -> None:
    build = compose()["services"]["gateway"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == ROOT
    dockerfile = (context / build["dockerfile"]).read_text()
    copied = [
        word
        for line in dockerfile.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert {"src", "pyproject.toml", "constraints.txt"} <= set(copied)
    assert all((context / name).exists() for name in copied)


def test_the_folder_of_the_tenants_is_mounted_and_not_the_file() -> None:
    """A file that is replaced is a new one, which a mount of the old one does not show."""
    [mount] = compose()["services"]["gateway"]["volumes"]
    source = (DEPLOY / mount.split(":")[0]).resolve()
    assert source.is_dir()
    assert (source / "fairlane.toml").is_file()
