"""`fairlane tenants`: who may use a server, and with what weight and limits."""

import os
import sys
import tomllib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fairlane.cli.output import Json, format_number, print_json, print_table, say

if TYPE_CHECKING:
    from fairlane.door.config import Configuration
    from fairlane.door.tenants import Tenant

app = typer.Typer(
    help="Tenants of a server: API keys, weights, groups, limits.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
File = Annotated[Path, typer.Option("--file", help="The file of tenants.")]
_FILE = Path("tenants.toml")
_CONFIG = Path("fairlane.toml")
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many; no limit by default.")]
_HARD = "A quota: refused beyond it. Needs [usage]."
_SOFT = "A soft quota: beyond it the weight falls. Needs [usage]."
Quota = Annotated[int | None, typer.Option(min=1, help=_HARD)]
CostQuota = Annotated[float | None, typer.Option(help=_HARD)]
SoftQuota = Annotated[int | None, typer.Option(min=1, help=_SOFT)]
SoftCostQuota = Annotated[float | None, typer.Option(help=_SOFT)]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The tenant; a new key for one that exists.")],
    weight: Annotated[
        float | None, typer.Option(help="Its part of the server, relative to others; 1.")
    ] = None,
    parent: Annotated[str | None, typer.Option(help="The group that it is a member of.")] = None,
    role: Annotated[
        str | None, typer.Option(help="client, gateway (names its clients) or operator.")
    ] = None,
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
    max_queued: Limit = None,
    max_running: Limit = None,
    max_wait_s: Annotated[
        float | None, typer.Option(help="Seconds that a request waits at most, at a gateway.")
    ] = None,
    tokens_per_day: Quota = None,
    tokens_per_month: Quota = None,
    cost_per_day: CostQuota = None,
    cost_per_month: CostQuota = None,
    soft_tokens_per_day: SoftQuota = None,
    soft_tokens_per_month: SoftQuota = None,
    soft_cost_per_day: SoftCostQuota = None,
    soft_cost_per_month: SoftCostQuota = None,
    no_key: Annotated[
        bool, typer.Option("--no-key", help="No key: a group, an adapter, a gateway's client.")
    ] = False,
    key_from_stdin: Annotated[
        bool, typer.Option("--key-from-stdin", help="Take over a key that exists.")
    ] = False,
    file: File = _FILE,
    json: Json = False,
) -> None:
    """Add a tenant, or a key and settings to one. The key is shown once and not kept.

    \b
    fairlane tenants add alice --weight 2 --requests-per-minute 600
    fairlane tenants add carol --tokens-per-day 1000000 --soft-cost-per-month 5e7
    fairlane tenants add acme --no-key
    fairlane tenants add bob --parent acme
    """
    from fairlane.door.tenant_admin import Settings, add_tenant

    settings = Settings(
        weight=weight,
        parent=parent,
        role=role,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        max_queued=max_queued,
        max_running=max_running,
        max_wait_s=max_wait_s,
        tokens_per_day=tokens_per_day,
        tokens_per_month=tokens_per_month,
        cost_per_day=cost_per_day,
        cost_per_month=cost_per_month,
        soft_tokens_per_day=soft_tokens_per_day,
        soft_tokens_per_month=soft_tokens_per_month,
        soft_cost_per_day=soft_cost_per_day,
        soft_cost_per_month=soft_cost_per_month,
    )
    given = sys.stdin.readline().strip() if key_from_stdin else None
    key = add_tenant(file, name, settings, with_key=not no_key, given_key=given)
    if json:
        print_json({"tenant": name, "key": key})
    elif key is not None and not key_from_stdin:
        print(key)
        say(f"This is the only time that {name}'s key is shown; {file} keeps its hash.")


@app.command("list")
def list_(file: File = _FILE, json: Json = False) -> None:
    """List tenants, with the ids of their keys.

    \b
    fairlane tenants list
    """
    from fairlane.door.tenant_file import read_tenants

    tenants = read_tenants(file)
    if json:
        print_json([_as_json(tenant, tenants.path(tenant.name)) for tenant in tenants.values()])
        return
    limits = ("requests/min", "tokens/min", "queued", "running", "wait s")
    rows = [_row(tenant, tenants.path(tenant.name)) for tenant in tenants.values()]
    print_table(("tenant ", "role ", "weight", *limits, "quotas ", "keys "), rows)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A tenant, or the id of one key.")],
    file: File = _FILE,
) -> None:
    """Revoke a tenant with all its keys, or one key by its id. A running server obeys at once.

    \b
    fairlane tenants revoke alice
    fairlane tenants revoke 3f9a1c20b7
    """
    from fairlane.door.tenant_admin import revoke as revoke_it

    say(f"revoked {revoke_it(file, name)}")


@app.command()
def check(
    file: File = _FILE,
    config: Annotated[
        Path, typer.Option(help="The server's configuration, if it is there.")
    ] = _CONFIG,
) -> None:
    """Check the file, and what the configuration expects of it.

    Or say whose key it is that FAIRLANE_KEY holds.

    \b
    fairlane tenants check
    """
    from fairlane.door.tenant_admin import whose
    from fairlane.door.tenant_file import read_tenants

    tenants = read_tenants(file)
    key = os.environ.get("FAIRLANE_KEY")
    if key:
        print(whose(tenants, key))
    else:
        keys = sum(len(tenant.keys) for tenant in tenants.values())
        print(f"{file}: {len(tenants)} tenants, {keys} keys")
        if config.exists() or config != _CONFIG:
            warning = _read_configuration(config).access.warning
            if warning:
                say(f"warning: {config}: {warning}")


def _read_configuration(file: Path) -> "Configuration":
    """A gateway's, where the file has a table that no other server knows; else one of vLLM."""
    from fairlane.engines.vllm.config import FairlaneConfig

    tables: set[str] = set()
    with suppress(OSError, ValueError):  # whoever reads it says what is wrong with it
        tables = set(tomllib.loads(file.read_text(encoding="utf-8")))
    if not tables & {"upstreams", "gateway"}:
        return FairlaneConfig.read(file)
    from fairlane.gateway.config import GatewayConfig

    return GatewayConfig.read(file)


def _as_json(tenant: "Tenant", path: str) -> dict[str, object]:
    keys = [{"id": key.id, "added": key.added} for key in tenant.keys]
    return {**asdict(tenant), "role": tenant.role.value, "path": path, "keys": keys}


def _row(tenant: "Tenant", path: str) -> list[str]:
    from fairlane.door.tenants import QUOTAS

    limits = asdict(tenant.limits)
    quotas = [f"{name} {format_number(v)}" for name in QUOTAS if (v := limits.pop(name))]
    numbers = ["-" if limit is None else format_number(limit) for limit in limits.values()]
    keys = ", ".join(f"{key.id} ({key.added})" if key.added else key.id for key in tenant.keys)
    return [
        path,
        tenant.role.value,
        format_number(tenant.weight),
        *numbers,
        ", ".join(quotas),
        keys,
    ]
