"""A configuration in a folder, with the keys of its tenants, for any host of the door."""

from pathlib import Path
from typing import Any

from fairlane.door.access import Access
from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Limits, Role, Tenant, hash_key, new_key


class Town:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tenants.toml"
        self.keys: dict[str, str] = {}
        self.folder = folder

    def add(
        self,
        name: str,
        *,
        role: Role = Role.CLIENT,
        weight: float = 1.0,
        parent: str | None = None,
        with_key: bool = True,
        **limits: Any,
    ) -> str:
        """Add a tenant, and give its key."""
        key = self.keys[name] = new_key()
        keys = (hash_key(key),) if with_key else ()
        tenant = Tenant(name, weight, parent, role, Limits(**limits), keys)
        change_tenants(self.file, lambda tenants: tenants.with_tenant(tenant))
        return key

    @classmethod
    def with_all(cls, folder: Path) -> "Town":
        """With two clients, a gateway and an operator: alice, bob, gate, root."""
        town = cls(folder)
        for name in ("alice", "bob"):
            town.add(name)
        town.add("gate", role=Role.GATEWAY)
        town.add("root", role=Role.OPERATOR)
        return town

    def document(self, **tables: Any) -> dict[str, Any]:
        """A configuration with these tables, as its file has it."""
        return {"tenants": self.file.name, "scheduler": {"groups": True}, **tables}

    def access(self, **tables: Any) -> Access:
        """As a configuration with these tables says."""
        return Access.parse(self.document(**tables), self.folder)
