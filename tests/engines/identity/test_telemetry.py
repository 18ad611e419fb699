"""Metrics and tenants as they are told: bounded labels that nobody can break out of."""

import re

import pytest

from fairlane.engines.vllm.telemetry import escape, merge, render

SAMPLE = re.compile(
    r'^[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? (-?[0-9.e+]+|inf)$'
)  # of Prometheus' text format, for the labels that are used here


def lines(clients: dict[str, dict[str, object]], top: int = 20, **seen: object) -> list[str]:
    text = render(clients, seen, top, "").decode()
    assert text.endswith("\n")
    return text.splitlines()


@pytest.mark.parametrize(
    "name",
    [
        'a"} 1\nfake_metric{x="',
        "a\\",
        'a\\"',
        "a\nb",
        "a\r\nb",
        "a\u2028b\x85c\x0bd",
        "日本",
        "a{b}",
        "# HELP",
        "\ud800",
    ],
)
def test_no_name_breaks_out_of_its_label(name: str) -> None:
    text = render({name: {"service": 1.0, "rejected": {"queue_full": 2}}}, {}, 20, "")
    for line in text.decode().splitlines():
        assert line.startswith("#") or SAMPLE.match(line), line
        assert "fake_metric" not in line.split("{")[0]
    assert len(text.decode().splitlines()) == len(text.split(b"\n")) - 1


def test_names_stay_apart() -> None:
    names = ['a"', 'a\\"', "a\\", "a\\\\", "a", "other"]
    assert len({escape(name) for name in names}) == len(names)


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
