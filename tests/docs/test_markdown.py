"""The reader of documents finds what it must, so that a document's mistake cannot go unseen."""

from pathlib import Path

import pytest

from tests.docs.markdown import Command, read_anchors, read_blocks, read_links
from tests.docs.test_docs_run import run_console, run_python

PAGE = """\
# A page: with `code`

See [the guide](docs/guide.md#first-step "title"), `[no](link)`
and [elsewhere](https://example.org).

```console output
$ echo one \\
    two
one ...
```

1. in a list

   ```sh no-run="starts a server"
   $ make
   ```

```python
not_a_link = "[x](y)"
raise LookupError("here")
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def test_blocks_carry_language_flags_line_and_text(page: Path) -> None:
    console, indented, python = read_blocks(page)
    assert (console.language, console.flags, console.line) == ("console", {"output": ""}, 7)
    assert console.commands() == [Command("echo one \\\n    two", "one ...\n")]
    assert indented.flags == {"no-run": "starts a server"}
    assert indented.commands() == [Command("make", "")]
    assert python.line == 19


def test_links_and_anchors_ignore_code(page: Path) -> None:
    assert read_links(page) == ["docs/guide.md#first-step"]
    assert read_anchors(page) == {"a-page-with-code"}


def test_failing_python_points_at_the_document(page: Path) -> None:
    with pytest.raises(LookupError) as raised:
        run_python(read_blocks(page)[2])
    assert raised.traceback[-1].lineno + 1 == 20
    assert Path(raised.traceback[-1].path) == page


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("$ false\n", "`false` exited 1"),
        ("$ false | cat\n", "exited 1"),
        ("$ echo one\ntwo\n", "printed:\none"),
        ("", "no command"),
    ],
)
def test_a_wrong_console_block_fails(tmp_path: Path, text: str, complaint: str) -> None:
    wrong = tmp_path / "wrong.md"
    wrong.write_text(f"```console output\n{text}```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=complaint):
        run_console(read_blocks(wrong)[0])


def test_text_before_the_first_command_is_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.md"
    wrong.write_text("```sh\nls\n```\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"wrong.md:2: text before the first command"):
        read_blocks(wrong)[0].commands()
