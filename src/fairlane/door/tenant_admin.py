"""What operators do with tenants: add, change, revoke."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from fairlane.core.errors import UnknownNameError
from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import (
    Key,
    Limits,
    Role,
    Tenant,
    TenantError,
    Tenants,
    hash_key,
    new_key,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings to change; None leaves one as it is."""

    weight: float | None = None
    parent: str | None = None
    role: str | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_queued: int | None = None
    max_running: int | None = None
    max_wait_s: float | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    cost_per_day: float | None = None
    cost_per_month: float | None = None
    soft_tokens_per_day: int | None = None
    soft_tokens_per_month: int | None = None
    soft_cost_per_day: float | None = None
    soft_cost_per_month: float | None = None

    def apply(self, tenant: Tenant) -> Tenant:
        """The tenant with these settings. Raises FairlaneError for those that cannot be."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if "role" in given:
            roles = [role.value for role in Role]
            if self.role not in roles:
                raise UnknownNameError("role", str(self.role), roles)
            given["role"] = Role(self.role)
        limits = {name: given.pop(name) for name in asdict(Limits()) if name in given}
        return replace(tenant, limits=replace(tenant.limits, **limits), **given)


def add_tenant(
    file: Path,
    name: str,
    settings: Settings,
    *,
    with_key: bool = True,
    given_key: str | None = None,
) -> str | None:
    """Add a tenant, or change one, with one more key; the key, or None without one."""
    key = (given_key or new_key()) if with_key else None
    added: tuple[Key, ...] = ()
    if key is not None:
        added = (hash_key(key, datetime.now(UTC).date().isoformat()),)

    def change(tenants: Tenants) -> Tenants:
        tenant = settings.apply(tenants.get(name) or Tenant(name))
        return tenants.with_tenant(replace(tenant, keys=tenant.keys + added))

    change_tenants(file, change)
    return key


def revoke(file: Path, name: str) -> str:
    """Revoke a tenant, or the key of that id; says which."""
    said = ""

    def change(tenants: Tenants) -> Tenants:
        nonlocal said
        if name in tenants:
            said = f"{name} and its {len(tenants[name].keys)} keys"
            return tenants.without_tenant(name)
        holders = [t.name for t in tenants.values() if any(key.id == name for key in t.keys)]
        if not holders:
            raise TenantError(f"no tenant or key is called {name!r}; see `fairlane tenants list`")
        said = f"key {name} of {holders[0]}"
        return tenants.without_key(name)

    if not file.exists():
        raise TenantError(f"{file}: no such file")
    change_tenants(file, change)
    return said


def whose(tenants: Tenants, key: str) -> str:
    """The path of the tenant that a key belongs to. Raises TenantError where it is nobody's."""
    tenant = tenants.find(key.encode())
    if tenant is None:
        raise TenantError("the key is nobody's")
    return tenants.path(tenant.name)
