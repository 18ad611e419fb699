"""Metrics and tenants as they are told: bounded labels that nobody can break out of."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairlane.door.telemetry import merge, render


def lines(clients: dict[str, dict[str, object]], top: int = 20, **seen: object) -> list[str]:
    text = render(clients, seen, top, "").decode()
    assert text.endswith("\n")
    return text.splitlines()


def parsed(text: bytes) -> dict[str, list[Any]]:
    """Samples by name, as a scraper reads them."""
    samples: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    return samples


HOSTILE = {  # names, and how a scraper reads them
    'a"} 1\nfake_metric{x="': 'a"} 1\nfake_metric{x="',
    "a\\": "a\\",
    'a\\"': 'a\\"',
    "a\nb": "a\nb",
    "a\r\nb": "a\\u000d\nb",
    "a\u2028b\x85c\x0bd": "a\\u2028b\\u0085c\\u000bd",
    "日本": "日本",
    "a{b}": "a{b}",
    "# HELP": "# HELP",
    "\ud800": "\\ud800",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_out_of_its_label(name: str) -> None:
    rejected = {"queue_full": 2}
    text = render({name: {"service": 1.0, "rejected": rejected}}, {}, 20, "")
    usual = render({"a": {"service": 1.0, "rejected": rejected}}, {}, 20, "")
    # of any kind of line end, even where the format knows one alone
    assert len(text.decode().splitlines()) == len(usual.splitlines())
    told, samples = parsed(usual), parsed(text)
    assert samples.keys() == told.keys()
    for metric, found in samples.items():
        assert [sample.value for sample in found] == [sample.value for sample in told[metric]]
    [service, other] = samples["fairlane_client_service_total"]
    assert service.labels == {"client": HOSTILE[name]}
    assert other.labels == {"client": "other"}
    [rejection] = samples["fairlane_client_rejections_total"]
    assert rejection.labels == {"client": HOSTILE[name], "reason": "queue_full"}


def test_names_stay_apart() -> None:
    names = ['a"', 'a\\"', "a\\", "a\\\\", "a", "a b", "a\nb", "other"]
    samples = parsed(render({name: {"service": 1.0} for name in names}, {}, 20, ""))
    told = {sample.labels["client"] for sample in samples["fairlane_client_service_total"]}
    assert told == set(names)


def test_values_are_read_as_they_are() -> None:
    """Large ones in full, no end as such, and no sample beside those that are documented."""
    clients = {"a": {"service": 12_345_678.25, "output_tokens": 10**15 + 1, "counter": 0.1}}
    samples = parsed(render(clients, {"bound": float("inf")}, 20, ""))
    for name, value in {
        "fairlane_client_service_total": 12_345_678.25,
        "fairlane_client_output_tokens_total": 10**15 + 1,
        "fairlane_client_counter": 0.1,
        "fairlane_difference_bound": float("inf"),
    }.items():
        assert samples[name][0].value == value
    assert not [name for name in samples if not name.startswith("fairlane_")]
    assert not [name for name in samples if name.endswith("_created")]


def test_labels_are_the_n_most_served_and_the_rest_together() -> None:
    clients: dict[str, dict[str, object]] = {
        f"c{i}": {"service": float(i), "output_tokens": 1, "counter": 1.0} for i in range(1000)
    }
    found = lines(clients, top=3)
    service = [line for line in found if line.startswith("fairlane_client_service_total")]
    assert service == [
        'fairlane_client_service_total{client="c999"} 999.0',
        'fairlane_client_service_total{client="c998"} 998.0',
        'fairlane_client_service_total{client="c997"} 997.0',
        f'fairlane_client_service_total{{client="other"}} {float(sum(range(997)))}',
    ]
    assert 'fairlane_client_output_tokens_total{client="other"} 997.0' in found
    assert len([line for line in found if "fairlane_client_counter{" in line]) == 3


def test_a_client_called_other_is_not_mistaken_for_one_with_a_label() -> None:
    found = lines({"other": {"service": 5.0}, "a": {"service": 1.0}})
    assert 'fairlane_client_service_total{client="other"} 5.0' in found
    assert len([line for line in found if 'service_total{client="other"' in line]) == 1


def test_rejections_are_told_by_reason() -> None:
    found = lines({"a": {"rejected": {"queue_full": 2, "tokens_per_minute": 1}}, "b": {}})
    assert 'fairlane_client_rejections_total{client="a",reason="queue_full"} 2.0' in found
    assert 'fairlane_client_rejections_total{client="a",reason="tokens_per_minute"} 1.0' in found


def test_the_observed_difference_stands_beside_the_bound() -> None:
    found = lines({}, observed_difference=12.0, at_most=20.0, bound=100.0)
    assert "fairlane_difference_observed 12.0" in found
    assert "fairlane_difference_bound 100.0" in found


def test_ranks_of_data_parallelism_add_up() -> None:
    one = {"clients": {"a": {"service": 1.0, "queued": 1}}, "observed_difference": 3.0}
    two = {
        "clients": {"a": {"service": 2.0, "queued": 0}, "b": {"service": 4.0}},
        "observed_difference": 7.0,
        "policy_errors": 1,
    }
    both = merge([one, two])
    assert both["clients"]["a"]["service"] == 3.0
    assert both["clients"]["b"]["service"] == 4.0
    assert both["clients"]["a"]["queued"] == 1
    assert both["observed_difference"] == 7.0
    assert both["policy_errors"] == 1


def test_how_sharing_goes_is_told_where_there_is_any() -> None:
    assert not [line for line in lines({"a": {}}) if "fairlane_cluster" in line]
    with_hub = {
        "connected": True, "members": 3, "schedulers": 6, "age_s": 0.25, "stale": 7.0,
        "max_debt": 900.0, "bound": 2000.0, "exchanges": 41, "failures": 2, "heard": 1e6,
    }  # fmt: skip
    found = set(lines({}, cluster=with_hub))
    assert found >= {
        "fairlane_cluster_connected 1.0", "fairlane_cluster_members 3.0",
        "fairlane_cluster_schedulers 6.0", "fairlane_cluster_exchange_age_seconds 0.25",
        "fairlane_cluster_stale 7.0", "fairlane_cluster_max_debt 900.0",
        "fairlane_cluster_bound 2000.0", "fairlane_cluster_exchanges_total 41.0",
        "fairlane_cluster_exchange_failures_total 2.0", "fairlane_cluster_heard_total 1e+06",
    }  # fmt: skip
    ranks_alone = lines({}, cluster={"schedulers": 2, "heard": 5.0, "stale": 0.0})
    assert not [line for line in ranks_alone if "connected" in line]  # nobody is to be alarmed


def test_what_each_rank_heard_adds_up() -> None:
    ranks = [{"clients": {}, "cluster": {"schedulers": 2, "heard": heard}} for heard in (3.0, 4.0)]
    assert merge(ranks)["cluster"] == {"schedulers": 2, "heard": 7.0}
