"""The parts of a document that a tool writes, each between `<!-- NAME -->` and `<!-- /NAME -->`.

Imports the standard library alone.
"""

import re


def fill(page: str, name: str, text: str) -> str:
    """The page with `text` as the part of that name. Raises SystemExit where it has none."""
    block = f"<!-- {name} -->\n{text}\n<!-- /{name} -->"
    marks = rf"<!-- {name} -->.*<!-- /{name} -->"
    page, found = re.subn(marks, lambda _: block, page, flags=re.DOTALL)
    if not found:
        raise SystemExit(f"no place for {name} in the page")
    return page
