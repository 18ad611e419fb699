"""Reads what can be checked in a Markdown file: fenced code blocks, commands, links, headings."""

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^(?P<indent>[ ]*)(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<text>.*?)^[ ]*(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(
    r"!?\[[^\]]*\]\((?P<target>[^)\s]+)[^)]*\)|(?:src|href)=\"(?P<attribute>[^\"]+)\""
)
HEADING = re.compile(r"^#{1,6}[ ]+(?P<title>.+?)[ ]*$", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """One shell command of a console block, and the lines that the document shows after it."""

    text: str
    output: str


@dataclass(frozen=True)
class Block:
    """One fenced block; `flags` are the words after its language, `word` or `word="value"`."""

    document: Path
    line: int  # of the first line inside the fence, from 1
    language: str
    flags: dict[str, str]
    text: str

    @property
    def place(self) -> str:
        """Where the block stands, as an editor understands it."""
        return f"{self.document}:{self.line}"

    def commands(self) -> list[Command]:
        """The block's commands: lines after `$ `, carried on where a line ends in a backslash."""
        found: list[Command] = []
        command_goes_on = False
        for line in self.text.splitlines():
            if command_goes_on:
                found[-1] = Command(f"{found[-1].text}\n{line}", "")
            elif line.startswith("$ "):
                found.append(Command(line[2:], ""))
            elif found:
                found[-1] = Command(found[-1].text, f"{found[-1].output}{line}\n")
                continue
            else:
                raise ValueError(f"{self.place}: text before the first command ('$ ...'): {line}")
            command_goes_on = line.endswith("\\")
        return found


def read_blocks(document: Path) -> list[Block]:
    """All fenced blocks of a Markdown file, in order."""
    source = document.read_text(encoding="utf-8")
    return [_block(document, source, match) for match in FENCE.finditer(source)]


def _block(document: Path, source: str, match: re.Match[str]) -> Block:
    language, *words = shlex.split(match["info"]) or [""]
    flags = {name: value for name, _, value in (word.partition("=") for word in words)}
    line = source.count("\n", 0, match.start("text")) + 1
    return Block(document, line, language, flags, textwrap.dedent(match["text"]))


def read_links(document: Path) -> list[str]:
    """The targets of all links and images outside code that lead to a place in the project."""
    prose = re.sub(r"`[^`\n]+`", "", FENCE.sub("", document.read_text(encoding="utf-8")))
    targets = [match["target"] or match["attribute"] for match in LINK.finditer(prose)]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def read_anchors(document: Path) -> set[str]:
    """The anchors that a Markdown page gets from its headings: lower case, spaces to hyphens."""
    prose = FENCE.sub("", document.read_text(encoding="utf-8"))
    titles = [match["title"].lower() for match in HEADING.finditer(prose)]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}
