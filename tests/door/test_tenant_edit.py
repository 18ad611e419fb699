"""The file of tenants is changed in place: what was not to change is still there, as written."""

import re
import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlane.door.tenant_file import change_tenants, read_tenants
from fairlane.door.tenants import Key, Limits, Role, Tenant, Tenants

HASHES = [sha256(bytes([i])).hexdigest() for i in range(20)]
NAMES = ["alice", "bob", "a b", "müller", "x.y", 'q"uote', "end"]
BY_HAND = f"""\
# Our tenants. Ask Ann before you change anything.

[tenants.alice]   # research
# twice, as agreed in May
weight = 2   # was 1.5
requests_per_minute = 600
keys = [
    # her laptop
    {{ sha256 = "{HASHES[0]}", added = 2026-01-31 }},
    {{ sha256 = '{HASHES[1]}' }},   # the robot's
]

# a group
[tenants."a b"]
role="client"

[tenants]
bob.weight = 1
bob.parent = "a b"

[tenants.carol]
keys = [{{sha256="{HASHES[2]}"}}]   # one line
# the end
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tenants.toml"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_only_what_was_changed_changes(file: Path, line_end: str) -> None:
    text = BY_HAND.replace("[tenants]\nbob.weight", "[tenants.bob]\nweight").replace("bob.p", "p")
    file.write_bytes(text.replace("\n", line_end).encode())

    def change(tenants: Tenants) -> Tenants:
        alice = tenants["alice"]
        more = Key(HASHES[3], "2026-02-01")
        alice = replace(alice, weight=3.0, limits=Limits(600, max_queued=9), keys=alice.keys[1:])
        alice = replace(alice, keys=(*alice.keys, more))
        return tenants.with_tenant(alice).without_tenant("bob").with_tenant(Tenant("dave"))

    change_tenants(file, change)
    expected = (
        text.replace("weight = 2   #", "weight = 3.0   #")
        .replace(f'    {{ sha256 = "{HASHES[0]}", added = 2026-01-31 }},\n', "")
        .replace(
            "# the robot's\n]\n",
            f'# the robot\'s\n    {{ sha256 = "{HASHES[3]}", added = "2026-02-01" }},\n]\n'
            "max_queued = 9\n",
        )
        .replace('[tenants.bob]\nweight = 1\nparent = "a b"\n', "")
    )
    assert file.read_bytes().decode() == (expected + '\n[tenants."dave"]\nweight = 1.0\n').replace(
        "\n", line_end
    )


def test_nothing_is_written_where_nothing_changes(file: Path) -> None:
    file.write_text("[tenants.a]\nweight = 2 # two")
    before = file.stat()
    change_tenants(file, lambda tenants: tenants.with_tenant(replace(tenants["a"], weight=2.0)))
    assert (file.read_text(), file.stat().st_ino) == (
        "[tenants.a]\nweight = 2 # two",
        before.st_ino,
    )


def quoted(name: str) -> str:
    return name if re.fullmatch("[a-z]+", name) else '"' + name.replace('"', '\\"') + '"'


@st.composite
def tables(draw: st.DrawFn, name: str, style: str, keys: list[str]) -> str:
    """One tenant, as somebody may have written it."""
    blank, tail = draw(st.sampled_from(["", " ", "  "])), draw(st.sampled_from(["", " # why"]))
    lines = [f"weight{blank}={blank}{draw(st.sampled_from(['1', '2.5', '1e1']))}"]
    if draw(st.booleans()):
        lines.append(f"max_queued{blank}={blank}{draw(st.integers(1, 9))}")
    if draw(st.booleans()):
        lines.append(f'role = "{draw(st.sampled_from(["client", "gateway"]))}"')
    lines = draw(st.permutations(lines))
    entries = [f'{{{blank}sha256 = "{key}"{blank}}}' for key in keys]
    array = f"keys = [{', '.join(entries)}]"
    if style == "inline":
        return f"{quoted(name)} = {{{blank}{', '.join([*lines, array])}{blank}}}{tail}\n"
    if style == "dotted":
        return "".join(f"{quoted(name)}.{line}{tail}\n" for line in [*lines, array])
    if style == "tables":
        rest = "".join(
            f'# key {key}\n[[tenants.{quoted(name)}.keys]]\nsha256 = "{key}"\n' for key in keys
        )
    else:
        over_lines = "".join(f"    {entry},{tail}\n" for entry in entries)
        rest = draw(st.sampled_from([f"keys = [\n{over_lines}]\n", f"{array}{tail}\n"]))
    head = f"[tenants.{quoted(name)}]{tail}\n"
    return head + "".join(f"{line}{tail}\n" for line in lines) + rest


@st.composite
def files(draw: st.DrawFn) -> str:
    """A file of tenants by hand: comments above each, and any of TOML's ways to write a table."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    first, text = True, "# top\n\n"
    kinds = draw(st.lists(st.sampled_from(["inline", "dotted"]), max_size=len(names)))
    for i, name in enumerate(names):
        style = kinds[i] if i < len(kinds) else draw(st.sampled_from(["plain", "tables"]))
        if first and kinds:
            text += draw(st.sampled_from(["[tenants]\n", ""]))
            first = False
        keys = HASHES[2 * i : 2 * i + draw(st.integers(0, 2))]
        table = draw(tables(name, style, keys))
        if style in ("inline", "dotted") and "[tenants]" not in text:
            table = re.sub("^", "tenants.", table, flags=re.MULTILINE)[: -len("tenants.")]
        text += f"# about {name}\n{table}" + draw(st.sampled_from(["", "\n"]))
    if draw(st.booleans()):
        text = text.rstrip("\n")
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


@st.composite
def changes(draw: st.DrawFn, before: Tenants) -> Tenants:
    """What somebody may make of these tenants."""
    after = before
    for name in draw(st.lists(st.sampled_from([*before, "new", "n w"]), min_size=1, max_size=3)):
        if name in after and draw(st.booleans()) and draw(st.booleans()):
            after = after.without_tenant(name)
            continue
        tenant = after.get(name) or Tenant(name)
        gone = draw(st.sampled_from([None, *tenant.keys]))
        keys = tuple(key for key in tenant.keys if key != gone)
        if draw(st.booleans()):
            used = {key.sha256 for other in after.values() for key in other.keys}
            keys += (Key(next(h for h in HASHES[14:] if h not in used), "2026-05-05"),)
        limits = Limits(draw(st.sampled_from([None, 60])), None, draw(st.sampled_from([None, 3])))
        role = draw(st.sampled_from([tenant.role, Role.OPERATOR]))
        weight = draw(st.sampled_from([tenant.weight, 1.0, 7.25]))
        tenant = replace(tenant, weight=weight, role=role, limits=limits, keys=keys)
        after = after.with_tenant(tenant)
    return after


@settings(deadline=None, max_examples=200)
@given(data=st.data(), text=files())
def test_any_change_of_any_file_is_read_back_and_loses_no_comment(
    data: st.DataObject, text: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, plain = Path(folder) / "tenants.toml", Path(folder) / "plain.toml"
        file.write_bytes(text.encode())
        before = read_tenants(file)
        after = data.draw(changes(before))
        change_tenants(file, lambda _: after)
        change_tenants(plain, lambda _: after)
        assert read_tenants(file) == read_tenants(plain) == after
        new = file.read_bytes().decode()
        assert new.count("\r\n") == (new.count("\n") if "\r" in text else 0)
        lines = [line.strip() for line in new.splitlines()]
        for line in text.splitlines():
            if line.startswith(("# top", "# about")):
                assert line in lines
        same = [name for name in before if before[name] == after.get(name)]
        for block in re.split("(?=# about )", text.replace("\r\n", "\n"))[1:]:
            if any(block.startswith(f"# about {name}\n") for name in same):
                assert block.strip() in new.replace("\r\n", "\n")
