"""What servers say went wrong is read in any shape, with the fields that they complain of."""

import json

import pytest

from fairlane.loadgen.errors import Complaint, excerpt, read_error

PYDANTIC = "[{'type': 'extra_forbidden', 'loc': ('body', 'min_tokens'), 'msg': 'Extra inputs ...'}]"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"message": "slow", "code": "rpm"}}, "rpm", "slow"),
        ({"error": {"message": "slow", "type": "rate", "code": 429}}, "rate", "slow"),
        ({"error": {"message": "slow", "type": "rate", "code": "429"}}, "rate", "slow"),
        ({"error": {"message": "slow", "type": None, "code": 503}}, "503", "slow"),
        ({"error": {"message": "slow\n\x1b[31mred", "type": None}}, "", "slow ?[31mred"),
        ({"error": "slow"}, "", "slow"),
        ({"error": "slow", "error_type": "overloaded"}, "overloaded", "slow"),
        ({"object": "error", "message": "slow", "type": "Bad", "code": 400}, "Bad", "slow"),
        ({"detail": "slow"}, "", "slow"),
        ({"detail": [{"loc": ["body", "n"], "msg": "too big"}]}, "", "body.n: too big"),
        ({"message": {"detail": [{"loc": ["body"], "msg": "slow"}]}}, "", "body: slow"),
        ([{"error": {"message": "slow", "status": "X", "code": 503}}], "503", "slow"),
        ({"error": {"message": "bad value", "param": "n"}}, "", "n: bad value"),
        ({"error": {}}, "", '{"error": {}}'),
        ({"status": "slow"}, "", '{"status": "slow"}'),
        ([1], "", "[1]"),
    ],
)
def test_errors_are_read_in_any_shape(body: object, code: str, message: str) -> None:
    assert read_error(json.dumps(body).encode()) == Complaint(code, message)


@pytest.mark.parametrize("body", [b"gone", b'{"error": ', b"[" * 100_000, b"\xff"])
def test_what_is_no_json_is_shown_as_it_is(body: bytes) -> None:
    assert read_error(body) == Complaint("", excerpt(body))


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (
            "Unrecognized request arguments supplied: ignore_eos, min_tokens",
            "ignore_eos min_tokens",
        ),
        ("Unrecognized request argument supplied: user", "user"),
        ("property 'stream_options' is unsupported", "stream_options"),
        ('json: unknown field "min_tokens"', "min_tokens"),
        (
            "unknown field `min_tokens`, expected one of `prompt`, `temperature`, `user`",
            "min_tokens",
        ),
        ("`temperature` must be strictly positive", "temperature"),
        (PYDANTIC, "min_tokens"),
        ("x" * 700 + " min_tokens", "min_tokens"),  # beyond what is shown
        ("cannot unmarshal array into Go struct field R.prompt of type string", "prompt"),
        ("prompt: Input should be a valid string", "prompt"),
        ("this model holds 4096 tokens, your prompt has 5000", ""),
        ("no user of this name", ""),
        ("engine is dead", ""),
    ],
)
def test_fields_that_a_server_complains_of_are_found(message: str, fields: str) -> None:
    assert read_error(json.dumps({"error": {"message": message}}).encode()).fields == tuple(
        fields.split()
    )


@pytest.mark.parametrize(
    "body",
    [
        {"detail": [{"loc": ["body", "min_tokens"], "msg": "Extra inputs are not permitted"}]},
        {"error": {"message": "Unknown parameter", "param": "min_tokens"}},
    ],
)
def test_fields_are_found_beside_the_message(body: object) -> None:
    assert read_error(json.dumps(body).encode()).fields == ("min_tokens",)


def test_excerpt_is_one_short_line() -> None:
    assert excerpt(b"a\r\n\tb\x00\xff") == "a b?\ufffd"
    assert len(excerpt("x" * 10_000)) == 160
