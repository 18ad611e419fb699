"""Writes docs/performance.md: runs every benchmark here and now, and keeps what they print.

A benchmark's docstring becomes the text over its table. With names, such as bench_gateway, only
their sections are written anew.
"""

import ast
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
HEAD = """# Performance

Written by `python tools/performance.py`, which runs `benchmarks/`. Ratios were taken within one
run; absolute times are those of the machine: {machine}.
"""


def section(script: Path) -> str:
    """Run a benchmark; its part of the page."""
    print(f"running {script.name}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script.stem}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    about = ast.get_docstring(ast.parse(script.read_text())) or ""
    return f"## {script.stem}\n\n{about}\n\n{done.stdout.strip()}\n"


def main() -> None:
    """Run the benchmarks one after the other and replace the page when all went well."""
    scripts = {script.stem: script for script in sorted((ROOT / "benchmarks").glob("bench_*.py"))}
    wanted = sys.argv[1:] or list(scripts)
    head = HEAD.format(machine=f"{platform.machine()}, Python {platform.python_version()}")
    old = {} if not sys.argv[1:] else sections(PAGE.read_text())
    parts = {**old, **{name: section(scripts[name]) for name in wanted}}
    PAGE.parent.mkdir(exist_ok=True)
    draft = PAGE.with_suffix(".draft")
    draft.write_text("\n".join([head, *(parts[name] for name in scripts if name in parts)]))
    draft.replace(PAGE)


def sections(page: str) -> dict[str, str]:
    """The parts of a page by the benchmark that they are of."""
    found = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0].removeprefix("## "): part.rstrip() + "\n" for part in found}


if __name__ == "__main__":
    main()
