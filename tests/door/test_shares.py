"""Entitlements by hand."""

from fairlane.door.shares import entitlements


def test_equal_clients_share_equally() -> None:
    assert entitlements(["a", "b"], {}) == {"a": 0.5, "b": 0.5}
    assert entitlements([], {"a": 2.0}) == {}


def test_weights_count_among_the_active_alone() -> None:
    assert entitlements(["a", "b"], {"a": 1, "b": 3, "idle": 100}) == {"a": 0.25, "b": 0.75}


def test_members_share_what_their_group_has() -> None:
    active = ["acme/eng/alice", "acme/eng/bob", "acme/ops", "solo"]
    weights = {"acme": 3.0, "acme/eng/alice": 3.0}
    assert entitlements(active, weights) == {
        "solo": 0.25,
        "acme/ops": 0.375,
        "acme/eng/alice": 0.28125,
        "acme/eng/bob": 0.09375,
    }


def test_a_client_beside_a_group_of_its_name() -> None:
    assert entitlements(["acme", "acme/a"], {"acme": 2.0}) == {"acme": 0.5, "acme/a": 0.5}
