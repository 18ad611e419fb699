"""Keys from elsewhere: random ones of every usual kind are taken, and none that was thought up."""

import base64
import random
import uuid
from collections.abc import Callable

import pytest

from fairlane.door.tenants import TenantError, hash_key

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
NANOID = "useandom-26T198340PX75pxJACKVERYMINDBUSHWOLF_GQZbfghjklqvwyzrict"
Maker = Callable[[random.Random], str]


def ulid(chance: random.Random) -> str:
    """Of one day in 2026."""
    number = (chance.randrange(86_400_000) + 1_795_000_000_000) << 80 | chance.getrandbits(80)
    return "".join(CROCKFORD[number >> 5 * i & 31] for i in reversed(range(26)))


MAKERS: dict[str, tuple[int, Maker]] = {
    "openssl rand -hex 16": (20_000, lambda chance: chance.randbytes(16).hex()),
    "openssl rand -hex 32": (2_000, lambda chance: chance.randbytes(32).hex()),
    "upper case": (2_000, lambda chance: chance.randbytes(16).hex().upper()),
    "base64": (2_000, lambda chance: base64.b64encode(chance.randbytes(16)).decode()),
    "url-safe": (2_000, lambda chance: base64.urlsafe_b64encode(chance.randbytes(24)).decode()),
    "base32": (2_000, lambda chance: base64.b32encode(chance.randbytes(20)).decode()),
    "uuid4": (2_000, lambda chance: str(uuid.UUID(int=chance.getrandbits(128), version=4))),
    "ulid": (2_000, ulid),
    "nanoid": (2_000, lambda chance: "".join(chance.choices(NANOID, k=21))),
    "a prefix": (2_000, lambda chance: "sk-service-production-" + chance.randbytes(24).hex()),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_random_keys_of_every_usual_kind_are_taken(kind: str) -> None:
    count, make = MAKERS[kind]
    chance = random.Random(kind)
    for _ in range(count):
        hash_key(make(chance))


@pytest.mark.parametrize(
    "key",
    [
        "0123456789abcdef0123456789abcdef",
        "fedcba9876543210fedcba9876543210",
        "0123456789abcdefghijklmnopqrstuvwxyz",
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "12345678901234567890123456789012",
        "00112233445566778899aabbccddeeff",
        "000102030405060708090a0b0c0d0e0f",
        "qwertyuiopasdfghjklzxcvbnm123456",
        "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "00000000-0000-0000-0000-000000000000",
        "abababababababababababababababab",
        "deadbeefcafebabedeadbeefcafebabe",
        "abc123abc123abc123abc123abc123abc123",
        "changemechangemechangemechangeme",
        "Password123!Password123!Password123!",
        "P@ssw0rdP@ssw0rdP@ssw0rdP@ssw0rd",
        "correct-horse-battery-staple-2024",
        "thisismyverylongsecretpassphrase",
        "ThisIsMyVeryLongSecretPassphrase!",
        "MySuperSecretApiKeyForProduction1",
        "my_super_secret_api_key_for_production",
        "the-quick-brown-fox-jumps-over-the-lazy-dog",
        "sk-test-key-for-development-only-do-not-use",
        "johnsmith1985johnsmith1985johnsmith",
        "2026-11-27T16:58:21.123456+00:00",
        "20260101202601012026010120260101",
        "2026-01-31-2026-01-31-2026-01-31-2026-01-31",
    ],
)
def test_keys_that_were_thought_up_are_refused(key: str) -> None:
    with pytest.raises(TenantError, match="a key must be random"):
        hash_key(key)


@pytest.mark.parametrize("key", ["x7Kq", "b0e3f9a1c7d25846", "8" + "31" * 10, "k-7" * 4, "-" * 40])
def test_keys_that_are_too_short_are_refused(key: str) -> None:
    with pytest.raises(TenantError, match="a key must have 20 to 512 characters, enough for 80"):
        hash_key(key)
