"""Who requests are from: the clients file, and what is sent without one."""

from pathlib import Path

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.loadgen.clients import identities

FILE = """
[clients.0]
key = "sk-zero"
[clients.1]
key_env = "KEY_OF_ONE"
model = "adapter-one"
[clients.2]
headers = { X-Tenant = "two" }
user = "second"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "clients.toml"
    path.write_text(text)
    return path


def test_file_gives_keys_headers_models_and_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_ONE", "sk-one")
    found = identities("012", model="base", file=write(tmp_path, FILE))
    assert [(i.model, i.user, i.headers) for i in found.values()] == [
        ("base", "0", {"Authorization": "Bearer sk-zero"}),
        ("adapter-one", "1", {"Authorization": "Bearer sk-one"}),
        ("base", "second", {"X-Tenant": "two"}),
    ]


def test_keys_are_not_shown(tmp_path: Path) -> None:
    assert "sk-zero" not in repr(identities("0", file=write(tmp_path, FILE)))


def test_without_a_file_clients_are_users_and_may_have_a_model_each() -> None:
    found = identities(["a", "b"], client_model="adapter-{client}")
    assert [(i.model, i.user) for i in found.values()] == [("adapter-a", "a"), ("adapter-b", "b")]


def test_star_stands_for_all_others(tmp_path: Path) -> None:
    text = '[clients.a]\nkey = "A"\n[clients."*"]\nkey = "B"\n'
    found = identities("abc", file=write(tmp_path, text))
    assert [i.headers["Authorization"][-1] for i in found.values()] == ["A", "B", "B"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[clients.0]\nkey 3", "clients.toml: not a TOML file: .*line 2"),
        ("[tenants.0]\n", "needs one table per client"),
        ("clients = 3\n", "needs one table per client"),
        ("[clients]\n0 = 'key'", "clients.0: must be a table with key"),
        ("[clients.0]\nhash = 'x'", "clients.0: unknown field 'hash'; known: key"),
        ("[clients.0]\nkey = 7", "clients.0: key must be text on one line"),
        ("[clients.0]\nkey = ''", "clients.0: key must be text on one line, not empty"),
        ("[clients.0]\nmodel = ''", "clients.0: model must be text on one line, not empty"),
        ('[clients.0]\nheaders = { X = "a\\nb" }', "headers must be text"),
        ("[clients.0]\nheaders = 'X: a'", "headers must be text"),
        ("[clients.0]\nheaders = ['X']", "headers must be text"),
        ("[clients.0]\nheaders = { 'X Y' = 'a' }", "'X Y' is no header"),
        ("[clients.0]\nheaders = { 'X:Y' = 'a' }", "'X:Y' is no header"),
        ("[clients.0]\nheaders = { '' = 'a' }", "'' is no header"),
        ("[clients.0]\nheaders = { Content-Length = '5' }", "'Content-Length' is no header"),
        ("[clients.0]\nkey = 'a'\nheaders = { authorization = 'b' }", "not both"),
        ("[clients.0]\nkey = 'a'\nkey_env = 'B'", "give key or key_env, not both"),
        ("[clients.0]\nkey_env = 'NO_SUCH_KEY'", "environment's NO_SUCH_KEY must be a key"),
        ("[clients.1]\n", r"no table \[clients.0\]"),
    ],
)
def test_mistakes_are_told_with_file_and_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FairlaneError, match=message) as caught:
        identities("0", file=write(tmp_path, text))
    assert "clients.toml" in str(caught.value)


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FairlaneError, match="cannot be read"):
        identities("0", file=tmp_path / "none.toml")
