"""The demonstration's live part: two clients through the gateway, before an engine in real time.

A gateway and a simulated engine run in threads of this process, and `bench` sends them the load
over real sockets. The engine is as many times faster than its profile as SPEED says; all that is
told is in its own time, so that it compares with the simulator's. Rates are such that load, gateway
and engine together need a quarter of one core of the machine that they were chosen on.
"""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from fairlane.core.errors import FairlaneError
from fairlane.door import tenant_admin
from fairlane.experiments.bench import BenchSettings, bench
from fairlane.experiments.settings import Settings
from fairlane.gateway.config import GatewayConfig
from fairlane.gateway.run import DrainingServer, Running
from fairlane.http_server import in_thread
from fairlane.records import RequestRecord, Run
from fairlane.simulated import SimulatedEngine, serve
from fairlane.workloads.config import WorkloadConfig
from fairlane.workloads.generators import generate
from fairlane.workloads.trace import write_csv

SPEED = 6.0
PROFILE = "a10g-llama-2-7b"
MEMORY_TOKENS = 1500
WINDOW = 16  # requests that the engine is given at once: nine fit into its memory
SENDING_S = 20.0  # in the engine's time; answering all takes twice as long
WORKLOAD = WorkloadConfig(
    num_adapters=2, req_rate=(4.0, 8.0), duration=SENDING_S,
    input_range=(128, 129), output_range=(32, 33),
)  # fmt: skip
SCHEDULERS = {"FCFS": "fcfs", "VTC": "vtc"}
TITLE = "Two clients, simulated and live through the gateway"
ABOUT = (
    f"Short requests, on the same server with room for {MEMORY_TOKENS:,} tokens. Simulated, the "
    "scheduler is the engine's own; live, the engine is first come, first served, and the gateway "
    f"before it decides, which gives it {WINDOW} requests at once."
)


def simulated(folder: Path, seed: int) -> dict[str, Settings]:
    """The simulated runs, by the name of their scheduler; the workload lies in `folder` then."""
    trace = folder / "live.csv"
    write_csv(trace, generate(WORKLOAD))
    return {
        name: Settings(
            suite="real", trace=str(trace), profile=PROFILE, memory_tokens=MEMORY_TOKENS,
            scheduler=scheduler, seed=seed,
        )
        for name, scheduler in SCHEDULERS.items()
    }  # fmt: skip


def live(settings: Settings, folder: Path) -> tuple[Run, str]:
    """The same through the gateway, in the engine's time; and why it may not be what it seems.

    Raises KeyboardInterrupt after Ctrl-C, once all has ended, and FairlaneError where nothing could
    be measured.
    """
    assert settings.trace is not None
    clients = _clients(folder)
    engine = SimulatedEngine(
        PROFILE, SPEED, memory_tokens=MEMORY_TOKENS, model=PROFILE, seed=settings.seed
    )
    with ExitStack() as life:
        upstream = {"url": life.enter_context(serve.in_thread(engine)), "window": WINDOW}
        document = {
            "tenants": "tenants.toml", "scheduler": {"name": settings.scheduler},
            "upstreams": {"engine": upstream},
        }  # fmt: skip
        gateway = Running(GatewayConfig.parse(document, folder))
        url = life.enter_context(in_thread(lambda ready: DrainingServer(gateway, ready)))
        report = bench(
            BenchSettings(
                server=url, suite="real", trace=settings.trace, time_scale=1 / SPEED,
                clients=str(clients), drain_s=0.0, seed=settings.seed,
            )
        )  # fmt: skip
    if report.sent.interrupted:
        raise KeyboardInterrupt
    if not report.finished:
        raise FairlaneError(
            "no request finished, live; `fairlane demo --no-gateway` leaves that out"
        )
    return _in_engine_time(report.run), "; ".join(report.warnings)


def _clients(folder: Path) -> Path:
    """Each client as a tenant, and its key for `bench`."""
    file = folder / "clients.toml"
    tables = []
    for client in map(str, range(WORKLOAD.num_adapters)):
        key = tenant_admin.add_tenant(folder / "tenants.toml", client, tenant_admin.Settings())
        tables.append(f'[clients.{client}]\nkey = "{key}"\n')
    file.write_text("".join(tables))
    return file


def _in_engine_time(run: Run) -> Run:
    """As the engine's clock has it, which is so many times faster."""

    def slower(seconds: float | None) -> float | None:
        return None if seconds is None else seconds * SPEED

    def told(record: RequestRecord) -> RequestRecord:
        return replace(
            record, arrival_s=record.arrival_s * SPEED, ttft_s=slower(record.ttft_s),
            latency_s=slower(record.latency_s),
            token_times_s=[time * SPEED for time in record.token_times_s or ()],
        )  # fmt: skip

    records = [told(record) for record in run.records]
    return replace(run, records=records, total_time_s=run.total_time_s * SPEED)
