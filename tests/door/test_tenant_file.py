"""The file of tenants: strict to read, whole whatever happens, taken up when it changes."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.door.tenant_file import TenantStore, change_tenants, read_tenants
from fairlane.door.tenants import Key, Limits, Role, Tenant, Tenants, hash_key, new_key
from tests.door.volume import SecretVolume


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tenants.toml"


def test_what_is_written_is_read(file: Path) -> None:
    full = Tenant(
        'o"dd \\ näme %2F日本',
        weight=0.1,
        parent="org",
        role=Role.GATEWAY,
        limits=Limits(60, 10_000, 5, 2),
        keys=(hash_key(new_key(), "2026-01-31"), hash_key(new_key())),
    )
    change_tenants(file, lambda tenants: tenants.with_tenant(Tenant("org")).with_tenant(full))
    assert dict(read_tenants(file)) == {"org": Tenant("org"), full.name: full}


def test_the_key_itself_is_not_in_the_file(file: Path) -> None:
    key = new_key()
    change_tenants(file, lambda t: t.with_tenant(Tenant("a", keys=(hash_key(key),))))
    assert key not in file.read_text()
    assert read_tenants(file).find(key.encode()) is not None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[tenants.a", "not TOML"),
        ("x = 1", r"must be in tables called \[tenants.NAME\]"),
        ("tenants = 3", r"must be in tables called \[tenants.NAME\]"),
        ("[tenants]\na = 3", r'\[tenants."a"\] must be a table'),
        (
            "[tenants.a]\nwieght = 2",
            r'\[tenants."a"\] unknown setting \'wieght\': did you mean wei',
        ),
        ("[tenants.a]\nweight = '2'", r'\[tenants."a"\] weight must be a number above 0'),
        ("[tenants.a]\nrole = 'root'", r'\[tenants."a"\] unknown role \'root\''),
        ("[tenants.a]\nparent = 3", "parent must be a text in quotes"),
        ("[tenants.a]\nkeys = ['x']", r"keys must be a list of \{ sha256"),
        ("[tenants.a]\nkeys = 3", r"keys must be a list of \{ sha256"),
        ("[tenants.a]\nkeys = {sha256 = 'x'}", r"keys must be a list of \{ sha256"),
        ("[tenants.a]\nkeys = [{sha256 = 5}]", "sha256 must be 64 lower-case hexadecimal digits"),
        (f"[tenants.a]\nkeys = [{{sha256='{'0' * 64}', added=5}}]", "added must be a text in quo"),
        (f"[tenants.a]\nkeys = [{{sha256='{'0' * 64}', note=''}}]", "unknown part of a key 'note'"),
        (
            "[tenants.a]\nweight = nan",
            r'\[tenants."a"\] weight must be a number above 0, .* not nan',
        ),
        ("[tenants.a]\nweight = inf", "weight must be a number above 0, 1e-6 to 1e6, not inf"),
        ("[tenants.a]\nweight = -inf", "weight must be .*, not -inf"),
        ("[tenants.a]\nweight = true", "weight must be .*, not True"),
        ("[tenants.a]\nweight = 1e-300", "weight must be .*, not 1e-300"),
        (f"[tenants.a]\nweight = 1{'0' * 400}", r"weight must be .*, not 10+\.\.\.$"),
        (f"[tenants.a]\nweight = 1{'0' * 5000}", "not TOML"),
        ("[tenants.a]\nrequests_per_minute = true", "requests_per_minute must be .*, not True"),
        ("[tenants.a]\ntokens_per_minute = 60.0", "tokens_per_minute must be .*, not 60.0"),
        ("[tenants.a]\ntokens_per_minute = '60'", "tokens_per_minute must be .*, not '60'"),
        (f"[tenants.a]\nmax_queued = 1{'0' * 400}", r"max_queued must be .*, not 10+\.\.\.$"),
        ("[tenants.a]\nrole = ['client']", "unknown role"),
        (f"[tenants.a]\nparent = {'[' * 5000}", "not TOML"),
        ("[tenants.a]\nmax_queued = 0", "max_queued must be a whole number above 0"),
        ("[tenants.'a/b']", "a name must not contain '/'"),
        ("[tenants.a]\nparent = 'b'", "the parent 'b' of 'a' is no tenant"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(FairlaneError, match=complaint) as error:
        read_tenants(file)
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_says_how_to_make_it(file: Path) -> None:
    with pytest.raises(FairlaneError, match="no such file or directory; `fairlane tenants add`"):
        read_tenants(file)


def test_a_date_without_quotes_is_a_date(file: Path) -> None:
    file.write_text(f"[tenants.a]\nkeys = [{{ sha256 = '{'0' * 64}', added = 2026-01-31 }}]")
    assert read_tenants(file)["a"].keys == (Key("0" * 64, "2026-01-31"),)


def adding(tenant: Tenant) -> Callable[[Tenants], Tenants]:
    return lambda tenants: tenants.with_tenant(tenant)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_is_not_for_all_to_read_and_an_old_one_keeps_its_mode(
    file: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        change_tenants(file, lambda tenants: tenants.with_tenant(Tenant("a")))
        assert stat.S_IMODE(file.stat().st_mode) == 0o640 & ~umask
        for name, mode in {"b": 0o640, "c": 0o644, "d": 0o600}.items():
            file.chmod(mode)
            change_tenants(file, adding(Tenant(name)))
            assert stat.S_IMODE(file.stat().st_mode) == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("text", ["[tenants.a", "[tenants.a]\nweight = 'x'", "x = 1"])
def test_a_broken_file_is_not_changed(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(FairlaneError):
        change_tenants(file, lambda tenants: tenants.with_tenant(Tenant("b")))
    assert file.read_text() == text


def test_two_who_change_the_file_at_once_lose_nothing(file: Path) -> None:
    def add(name: str) -> None:
        change_tenants(file, lambda tenants: tenants.with_tenant(Tenant(name)))

    threads = [threading.Thread(target=add, args=(f"t{i}",)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_tenants(file)) == {f"t{i}" for i in range(20)}


def test_a_change_that_is_refused_leaves_the_file(file: Path) -> None:
    change_tenants(file, lambda tenants: tenants.with_tenant(Tenant("a")))
    before = file.read_bytes()
    with pytest.raises(FairlaneError, match="no tenant is called 'b'"):
        change_tenants(file, lambda tenants: tenants.without_tenant("b"))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir() if "partial" in path.name] == []


def test_the_store_sees_a_change_at_once(file: Path) -> None:
    key = new_key()
    change_tenants(file, lambda _: Tenants({"a": Tenant("a", keys=(hash_key(key),))}))
    store = TenantStore(file)
    before = store.current()
    assert store.current() is before
    change_tenants(file, lambda tenants: tenants.without_key(hash_key(key).id))
    assert before.find(key.encode()) is not None
    assert store.current().find(key.encode()) is None


def test_the_store_sees_that_a_link_on_the_way_leads_elsewhere(tmp_path: Path) -> None:
    """As Kubernetes changes what it mounts of a Secret: a link to a folder is put in place."""
    volume = SecretVolume(tmp_path)
    volume.put("[tenants.a]")
    store = TenantStore(volume.file)
    assert set(store.current()) == {"a"}
    stamp = volume.file.stat()
    volume.put("[tenants.b]")
    os.utime(volume.file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as long, as old: another
    assert set(store.current()) == {"b"}
    assert store.problem == ""


def test_the_store_keeps_the_last_good_tenants_and_says_what_is_wrong(file: Path) -> None:
    change_tenants(file, lambda tenants: tenants.with_tenant(Tenant("a")))
    store = TenantStore(file)
    file.write_text("[tenants.b")
    assert set(store.current()) == {"a"}
    assert "not TOML" in store.problem
    file.unlink()
    assert set(store.current()) == {"a"}
    assert "no such file" in store.problem
    change_tenants(file, lambda tenants: tenants.with_tenant(Tenant("c")))
    assert set(store.current()) == {"c"}
    assert store.problem == ""


def test_the_store_does_not_start_with_a_broken_file(file: Path) -> None:
    file.write_text("[tenants.b")
    with pytest.raises(FairlaneError, match="not TOML"):
        TenantStore(file)
