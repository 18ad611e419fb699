"""Whose weight is whose, whatever clients are called, and nothing is guessed."""

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.settings import Settings
from fairlane.experiments.weights import describe_weights, parse_weights, weights_by_client
from fairlane.workloads.trace import TracedRequest


def sent_by(*clients: str) -> list[TracedRequest]:
    return [TracedRequest(i, client, float(i), 5, 5) for i, client in enumerate(clients)]


BOB_FIRST = sent_by("bob", "alice", "bob", "carol")


def test_by_position_weights_go_to_clients_as_they_first_send() -> None:
    weights = weights_by_client(parse_weights("1, 2,3"), BOB_FIRST)
    assert weights == {"bob": 1.0, "alice": 2.0, "carol": 3.0}
    assert describe_weights(weights) == "weights: bob=1, alice=2, carol=3"


def test_clients_named_by_numbers_keep_their_order_as_the_papers_do() -> None:
    assert weights_by_client((1.0, 2.0, 3.0), sent_by("10", "2", "0")) == {"0": 1, "2": 2, "10": 3}
    assert weights_by_client((1.0, 2.0), sent_by("2", "1a")) == {"2": 1.0, "1a": 2.0}


def test_the_suite_of_the_paper_gives_client_i_the_ith_weight() -> None:
    weighted = Settings(suite="overload-weighted", scheduler="vtc", weights=(1.0, 2.0, 3.0, 4.0))
    requests = weighted.requests()
    assert requests[0].client != "0"  # or order of arrival would do
    assert weighted.client_weights(requests) == {"0": 1.0, "1": 2.0, "2": 3.0, "3": 4.0}


def test_by_name_the_others_weigh_1() -> None:
    weights = weights_by_client(parse_weights("carol=2.5,bob=1e1"), BOB_FIRST)
    assert weights == {"bob": 10.0, "alice": 1.0, "carol": 2.5}
    assert weights_by_client(parse_weights("a=b=2"), sent_by("a=b")) == {"a=b": 2.0}
    assert weights_by_client(parse_weights(None), BOB_FIRST) == {}


@pytest.mark.parametrize(
    "text",
    ["", "1,", "0,1", "-1,2", "nan,1", "inf,1", "1e999,1", "1_0,1", "\u0663,1", "one,two", "=1",
     "alice", "alice=", "alice=0", "alice=-1", "alice=nan", "alice=1,2", "1,bob=2"],
)  # fmt: skip
def test_what_is_no_weight_is_refused(text: str) -> None:
    with pytest.raises(FairlaneError, match="--weights takes numbers above 0"):
        parse_weights(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1,2", "2 weights for 3 clients: give one each, to bob, alice, carol"),
        ("1,2,3,4", "4 weights for 3 clients"),
        ("dave=2", "weights for dave, who sends nothing; clients are bob, alice, carol"),
        ("bob=1,bob=1", "names a client twice"),
    ],
)
def test_weights_that_belong_to_nobody_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        weights_by_client(parse_weights(text), BOB_FIRST)
