"""The documents are true: their code runs and prints what they show, their links lead somewhere.

How to write a block: ```python is executed; of ```console and ```sh each line after `$ ` is run by
the shell and must exit 0. The blocks of one document run in order in one temporary folder. With
`output` in the fence's first line the text after a command must be what it prints; `...` stands
for any text. `no-run="why"` leaves a block out, for the commands in NOT_RUN alone, and for Python
that an engine's own tests run. A block that names $FAIRLANE_REFERENCE needs the measured data and
is skipped without it.
"""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import Block, read_anchors, read_blocks, read_links
from tests.processes import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
SHOWN = ("", "csv", "json", "jsonl", "mermaid", "text", "toml")
# what a test cannot start: what changes the machine, servers that need a GPU, load for them
NOT_RUN = (
    "OLLAMA_NUM_PARALLEL=",
    "cd ",
    "docker ",
    "export FAIRLANE_USER=",
    "fairlane bench ",
    "fairlane gateway ",
    "fairlane serve ",
    "fairlane simulated-engine",
    "fairlane top ",
    "kubectl ",
    "llama-server ",
    "python -m sglang.launch_server ",
    "python -m tools.cluster_runs ",
    "python -m tools.server_modes ",
    "ray start ",
    "serve run ",
    "git clone ",
    "make",
    "pip install ",
    "python3 -m venv ",
    "sudo ",
    "text-generation-launcher ",
    "trtllm-serve ",
    "vllm serve ",
)

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def run_python(block: Block) -> None:
    """Execute a block in a fresh namespace; its errors point at the document's own lines."""
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, str(block.document), "exec"), {"__name__": "__main__"})


def run_console(block: Block) -> None:
    """Run a block's commands one by one, and hold their output against the document's."""
    commands = block.commands()
    if not commands:
        raise AssertionError(f"{block.place}: no command: a line to run starts with '$ '")
    for command in commands:
        printed = run_command(command.text)
        if "output" in block.flags and not same_text(command.output, printed):
            raise AssertionError(f"{block.place}: `{command.text}` printed:\n{printed}")


def run_command(text: str) -> str:
    """Run one shell command; give what it printed to standard output and error."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    if done.returncode:
        raise AssertionError(f"`{text}` exited {done.returncode}:\n{done.stdout}")
    return done.stdout


def same_text(shown: str, printed: str) -> bool:
    """Whether a document shows what was printed; `...` is any text, white space counts as one."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(shown, printed, flags)


RUN = {"python": run_python, "console": run_console, "sh": run_console}


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What a reader has: an empty folder, `fairlane` on the path, a plain terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    for name, value in {"COLUMNS": "100", "MPLBACKEND": "agg", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@each_document
def test_code_in_document_runs(
    document: Path, reader: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    blocks = [b for b in read_blocks(document) if b.language in RUN and "no-run" not in b.flags]
    measured = [block for block in blocks if "FAIRLANE_REFERENCE" in block.text]
    for block in blocks:
        if block not in measured:
            RUN[block.language](block)
    if measured:  # last, since without the data this skips, or fails where CI=true
        reader.setenv("FAIRLANE_REFERENCE", str(request.getfixturevalue("reference_dir")))
    for block in measured:
        RUN[block.language](block)


@each_document
def test_every_block_is_run_shown_or_excused(document: Path) -> None:
    known = (*RUN, *SHOWN)
    for block in read_blocks(document):
        assert block.language in known, f"{block.place}: use one of {known}"
        if "no-run" not in block.flags:
            continue
        assert block.flags["no-run"], f'{block.place}: say why: no-run="starts a server"'
        for command in [] if block.language == "python" else block.commands():
            assert command.text.startswith(NOT_RUN), f"{block.place}: {command.text} can run"


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in read_links(document):
        name, _, anchor = target.partition("#")
        page = (document.parent / name).resolve() if name else document
        assert page.exists(), f"{document}: broken link to {target}"
        if anchor and page.suffix == ".md":
            assert anchor in read_anchors(page), f"{document}: no such heading: {target}"
