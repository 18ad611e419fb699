"""Tenants: names, keys, groups, and what contradicts what."""

import pytest

from fairlane.door.tenants import (
    Key,
    Limits,
    Tenant,
    TenantError,
    Tenants,
    check_name,
    hash_key,
    new_key,
)


def tenants(*all_of_them: Tenant) -> Tenants:
    return Tenants({tenant.name: tenant for tenant in all_of_them})


def test_a_key_finds_its_tenant_and_only_its_own() -> None:
    one, two = new_key(), new_key()
    found = tenants(Tenant("a", keys=(hash_key(one),)), Tenant("b", keys=(hash_key(two),)))
    assert found.find(one.encode()) == found["a"]
    assert found.find(two.encode()) == found["b"]
    assert found.find(new_key().encode()) is None
    assert found.find(b"") is None


def test_the_hash_of_a_key_is_no_key() -> None:
    key = hash_key(new_key())
    found = tenants(Tenant("a", keys=(key,)))
    assert found.find(key.sha256.encode()) is None
    assert found.find(bytes.fromhex(key.sha256)) is None


def test_keys_are_long_random_and_unlike_each_other() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(key.startswith("fl-") and len(key) == 46 for key in keys)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "secret",
        "a" * 64,
        "abcabcabc" * 8,
        "schlüssel-" + "0123456789abcdefghijklmnop",
        "two words 0123456789abcdefghijklmnop",
        new_key() * 20,
    ],
)
def test_keys_that_could_be_guessed_or_not_be_sent_are_refused(key: str) -> None:
    with pytest.raises(TenantError, match="a key must"):
        hash_key(key)


def test_one_key_for_two_tenants_is_refused() -> None:
    key = hash_key(new_key())
    with pytest.raises(TenantError, match=f"a and b have the same key {key.id}"):
        tenants(Tenant("a", keys=(key,)), Tenant("b", keys=(key,)))


def test_paths_go_from_the_outermost_group_to_the_tenant() -> None:
    found = tenants(
        Tenant("alice", weight=2, parent="eng"), Tenant("eng", parent="acme"), Tenant("acme")
    )
    assert found.path("alice") == "acme/eng/alice"
    assert found.weights() == {"acme/eng/alice": 2.0, "acme/eng": 1.0, "acme": 1.0}


def test_a_stranger_cannot_name_itself_into_a_group() -> None:
    found = tenants(Tenant("alice", parent="acme"), Tenant("acme"))
    assert found.path("acme/alice") == "acme%2Falice"
    assert found.path("acme%2Falice") == "acme%252Falice"
    assert found.path("bob") == "bob"


def test_a_name_with_a_percent_sign_is_not_confused_with_an_escaped_one() -> None:
    found = tenants(Tenant("a%2Fb"))
    assert found.path("a%2Fb") != found.path("a/b")
    assert found.limits(found.path("a%2Fb")) is not None


def test_groups_that_contain_themselves_or_nobody_are_refused() -> None:
    with pytest.raises(TenantError, match="'a' is its own group: a in b in a"):
        tenants(Tenant("a", parent="b"), Tenant("b", parent="a"))
    with pytest.raises(TenantError, match="the parent 'b' of 'a' is no tenant; add it"):
        tenants(Tenant("a", parent="b"))


def test_counts_that_hold_for_one_client_are_refused_for_a_group() -> None:
    with pytest.raises(TenantError, match="'org' is a group: give max_running to its members"):
        tenants(Tenant("org", limits=Limits(max_running=3)), Tenant("a", parent="org"))


@pytest.mark.parametrize("name", ["alice", "ALICE", "müller", "日本", "a b", "a%2Fb", "x" * 200])
def test_names_of_any_script(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "a\n",
        "a\nb",
        "a\tb",
        "a\x00b",
        "a\x1b[31mb",
        "x" * 201,
        "a\u202eb",  # writes the rest from right to left
        "a\u200bb",  # a blank of no width
        "u\u0308ber",  # the letter and its dots apart
        "\ud800",
    ],
)
def test_names_that_are_not_what_they_look_like_are_refused(name: str) -> None:
    with pytest.raises(TenantError):
        check_name(name)


@pytest.mark.parametrize("weight", [0, -1, float("inf"), float("nan"), True, "2"])
def test_weights_that_are_none(weight: float) -> None:
    with pytest.raises(TenantError, match="weight must be a number above 0"):
        Tenant("a", weight=weight)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "60"])
def test_limits_that_are_none(limit: int) -> None:
    with pytest.raises(TenantError, match="requests_per_minute must be a whole number above 0"):
        Limits(requests_per_minute=limit)


@pytest.mark.parametrize("sha256", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64])
def test_hashes_that_are_none(sha256: str) -> None:
    with pytest.raises(TenantError, match="64 lower-case hexadecimal digits"):
        Key(sha256)


def test_revoking_takes_one_key_and_leaves_the_other() -> None:
    old, new = new_key(), new_key()
    before = tenants(Tenant("a", keys=(hash_key(old), hash_key(new))))
    after = before.without_key(hash_key(old).id)
    assert after.find(old.encode()) is None
    assert after.find(new.encode()) == after["a"]
    with pytest.raises(TenantError, match="no key is called 1234"):
        after.without_key("1234")


def test_a_group_with_members_stays() -> None:
    found = tenants(Tenant("org"), Tenant("a", parent="org"))
    with pytest.raises(TenantError, match="'org' has members: a"):
        found.without_tenant("org")
    assert set(found.without_tenant("a")) == {"org"}
