"""Settings of a cluster: each acts or is refused; what a run says of everywhere and of replicas."""

from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.acting import check_settings
from fairlane.experiments.clusters import (
    ClusterSettings,
    cluster_settings,
    parse_exchange,
    parse_reach,
)
from fairlane.experiments.runs import simulate_runs
from fairlane.experiments.settings import Settings

VLLM = {"profile": "h200-llama-2-7b"}


def settings(cluster: dict[str, Any], **options: Any) -> Settings:
    given = {"suite": "overload", "scheduler": "vtc", "duration": 20.0, **options}
    return Settings(**given, cluster=ClusterSettings(**{"replicas": 2, **cluster}))


@pytest.mark.parametrize(
    ("cluster", "options", "complaint"),
    [
        ({"router": "rand"}, {}, "unknown router 'rand'"),
        ({"router": "prefix"}, {}, "router prefix: no request says"),
        ({"router": "random", "exchange": "central"}, {}, "router: acts where requests are routed"),
        ({"reach": (("1", 0.5),), "exchange": "central"}, {}, "reach: acts where requests are"),
        ({"guard": 0.1, "exchange": "central"}, {}, "guard: acts where replicas exchange"),
        ({"guard": 0.1, "exchange": "off"}, {}, "guard: acts where replicas exchange"),
        ({"max_debt": 5.0, "exchange": "off"}, {}, "max-debt: acts where replicas exchange"),
        ({"guard": 0.1}, {"scheduler": "fcfs"}, "guard: acts where replicas exchange"),
        ({"exchange": 0.2}, {"scheduler": "fcfs"}, "exchange: this scheduler keeps no charges"),
        ({"exchange": 0.2}, {"scheduler": "drr"}, "exchange: this scheduler keeps no charges"),
        ({"replicas": 1, "router": "random"}, {}, "router: acts between replicas, and there is"),
        ({"replicas": 1, "exchange": 0.2}, {}, "exchange: acts between replicas, and there is"),
        ({"replicas": 1, "guard": 0.1}, {}, "guard: acts between replicas, and there is one"),
        ({"router": "sticky", "reach": (("1", 0.5),)}, {}, "sticky keeps every client to one"),
        ({"reach": (("7", 0.5),)}, {}, "reach: client 7 sends nothing"),
        ({"exchange": "central"}, {"charging": "step-start"}, "the artifact had one server"),
        (
            {"exchange": "central"},
            {"scheduler": "dlpm", "suite": "shared-prefix", "prefix_cache_tokens": 4096},
            "dlpm goes by one server's prefix cache",
        ),
    ],
)
def test_a_setting_that_cannot_act_is_refused(
    cluster: dict[str, Any], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        check_settings(settings(cluster, **options))


@pytest.mark.parametrize(
    ("cluster", "complaint"),
    [
        ({"replicas": 0}, "replicas must be greater than or equal to 1"),
        ({"guard": 1.0}, "guard must be less than 1"),
        ({"guard": -0.1}, "guard must be greater than or equal to 0"),
        ({"max_debt": -1.0}, "max_debt must be greater than or equal to 0"),
        ({"exchange": -1.0}, "exchange must be seconds, off or central"),
        ({"exchange": "on"}, "exchange must be seconds, off or central"),
        ({"reach": (("a", 1.0),)}, "must be less than 1"),
    ],
)
def test_a_value_out_of_range_is_refused(cluster: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        ClusterSettings(**{"replicas": 2, **cluster})


def test_without_replicas_nothing_of_a_cluster_may_be_given() -> None:
    assert cluster_settings(None, router=None, reach=()) is None
    with pytest.raises(FairlaneError, match="guard: acts between --replicas"):
        cluster_settings(None, router=None, guard=0.0)


def test_options_of_the_command_line() -> None:
    assert parse_exchange("0.5") == 0.5
    assert [parse_exchange(text) for text in (None, "off", "central")] == [None, "off", "central"]
    assert parse_reach("bob=0.25, eve=.5") == (("bob", 0.25), ("eve", 0.5))
    for text in ("bob", "bob=x", "=0.5", "bob=0.5,bob=0.25", ""):
        with pytest.raises(FairlaneError, match="--reach takes CLIENT=PART"):
            parse_reach(text)
    with pytest.raises(FairlaneError, match="--exchange takes seconds, off or central"):
        parse_exchange("often")


@pytest.mark.parametrize("scheduler", ["fcfs", "vtc", "drr"])
@pytest.mark.parametrize("options", [{}, VLLM])
def test_all_defaults_suit_every_scheduler(scheduler: str, options: dict[str, Any]) -> None:
    chosen = settings({}, scheduler=scheduler, **options)
    assert check_settings(chosen) == []
    run = chosen.run(audited=True)
    assert {record.replica for record in run.records} == {0, 1}
    assert (run.manifest["audit"]["charged"] is not None) == (scheduler == "vtc")


def test_a_report_says_what_each_replica_did_and_it_adds_up() -> None:
    chosen = settings({"replicas": 3, "router": "random"}, rate_scale=3.0)
    report = simulate_runs(chosen, runs=2, workers=1)
    assert list(report.replicas) == ["0", "1", "2"]
    for quantity in ("service of 0", "service of 1"):
        client = quantity[-1]
        total = sum(values[quantity].median for values in report.replicas.values())
        assert total == report.clients[client]["service"].median
    requests = [values["requests"] for values in report.replicas.values()]
    assert any(count.low < count.high for count in requests)  # of another seed's routing
    assert report.metrics["observed_difference"].high <= report.metrics["bound"].low
    assert all(values["observed_difference"].low > 0 for values in report.replicas.values())


def test_one_server_reports_no_replicas() -> None:
    alone = Settings(suite="overload", scheduler="vtc", duration=20)
    assert simulate_runs(alone).replicas == {}


def test_prefix_caches_are_each_replicas_own() -> None:
    options: dict[str, Any] = {
        "suite": "shared-prefix", "prefix_cache_tokens": 2048, "duration": 60.0, "rate_scale": 2.0,
    }  # fmt: skip
    with_affinity = settings({"router": "prefix"}, **options).run()
    without = settings({"router": "round-robin"}, **options).run()
    assert with_affinity.total_time_s != without.total_time_s
    by_client = {(r.client, r.replica) for r in with_affinity.records}
    assert len(by_client) == len({r.client for r in with_affinity.records})
