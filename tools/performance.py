"""Writes docs/performance.md: runs every benchmark here and now, and keeps what they print.

A benchmark's docstring becomes the text over its table.
"""

import ast
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
HEAD = """# Performance

Written by `python tools/performance.py`, which runs `benchmarks/`. Ratios were taken within one
run; absolute times are those of the machine: {machine}.
"""


def main() -> None:
    """Run the benchmarks one after the other and replace the page when all went well."""
    parts = [HEAD.format(machine=f"{platform.machine()}, Python {platform.python_version()}")]
    for script in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        print(f"running {script.name}", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{script.stem}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        about = ast.get_docstring(ast.parse(script.read_text())) or ""
        parts.append(f"## {script.stem}\n\n{about}\n\n{done.stdout.strip()}\n")
    PAGE.parent.mkdir(exist_ok=True)
    draft = PAGE.with_suffix(".draft")
    draft.write_text("\n".join(parts))
    draft.replace(PAGE)


if __name__ == "__main__":
    main()
