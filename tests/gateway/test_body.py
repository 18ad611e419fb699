"""Bodies: what they ask for, the one change that is made to them, and those that are refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.gateway.body import BodyError, Dialect, Route, read_body


def read(text: str, dialect: Dialect = Dialect.OPENAI) -> Any:
    return read_body(Route(dialect), text.encode())


def test_what_is_asked_for_is_read_and_the_bytes_are_kept() -> None:
    text = ' {"model" : "m", "max_tokens":7,"n": 2 , "x": [1, {"model": 3}]}\n'
    asked = read(text)
    assert (asked.model, asked.stream, asked.samples, asked.max_tokens) == ("m", False, 2, 7)
    assert asked.content == text.encode()
    assert not asked.hides_usage


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ('{"stream":true,"model":"m"}', None),
        ('{ "stream": true, "model": "m" }', None),
        ('{"model":"m","stream":true,"stream_options":null}', None),
        ('{"model":"m","stream":true,"stream_options":{}}', None),
        ('{"model":"m","stream":true,"stream_options":{"include_usage":false,"a":1}}', {"a": 1}),
    ],
)
def test_a_stream_is_asked_for_usage_between_its_bytes(text: str, sent: Any) -> None:
    asked = read(text)
    assert asked.hides_usage
    told = json.loads(asked.content)
    assert told.pop("stream_options") == {**(sent or {}), "include_usage": True}
    before = json.loads(text)
    before.pop("stream_options", None)
    assert told == before


def test_who_asks_for_usage_gets_it() -> None:
    text = '{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    assert read(text).content == text.encode()
    assert not read(text).hides_usage


def test_other_apis_are_left_as_they_are() -> None:
    text = '{"model":"m","stream":true}'
    assert read(text, Dialect.MESSAGES).content == text.encode()
    assert read('{"model":"m","input":"x"}', Dialect.PLAIN).max_tokens == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ("{", "not JSON"),
        ('{"model":"m"', "not JSON"),
        ('{"model":"m",}', "not JSON"),
        ('{"model":"m"} {}', "something follows it"),
        ('{"model":"m" "n":1}', "not JSON"),
        ('{"model":"m","model":"other"}', "'model' stands twice"),
        ('{"model":"m","mod\\u0065l":"other"}', "'model' stands twice"),
        ("{}", "model must be"),
        ('{"model":3}', "model must be"),
        ('{"model":""}', "model must be"),
        ('{"model":"m","stream":true,"stream_options":[]}', "stream_options must be an object"),
        ('{"model":"m","stream":true,"stream_interval":1000}', "stream_interval is not served"),
        ('{"model":"m","x":' + "[" * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_bodies_that_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(BodyError, match=complaint):
        read(text)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BodyError, match="UTF-8"):
        read_body(Route(Dialect.OPENAI), b'{"model":"\xff"}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.booleans())
def test_nothing_else_of_a_body_changes(members: dict[str, Any], ascii_only: bool) -> None:
    for name in ("stream_options", "stream_interval", "model"):
        members.pop(name, None)
    body = {**members, "model": "m", "stream": True}
    asked = read(json.dumps(body, ensure_ascii=ascii_only))
    assert json.loads(asked.content) == {**body, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(
    ("body", "characters", "tokens"),
    [
        ({"prompt": "abcd"}, 4, 0),
        ({"prompt": ["ab", "c"]}, 3, 0),
        ({"prompt": [1, 2, 3]}, 0, 3),
        ({"prompt": [[1, 2], [3]]}, 0, 3),
        ({"input": "abc"}, 3, 0),
        ({"messages": [{"role": "user", "content": "abc"}]}, 3 + 12, 0),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "ab"}]}]}, 26, 0),
        ({"system": "ab", "messages": []}, 2, 0),
        ({"user": "not a prompt"}, 0, 0),
        ({"prompt": None, "messages": 3, "input": {"a": {"b": "x"}}}, 25, 0),
    ],
)
def test_the_prompt_is_measured_and_what_is_around_it_is_not(
    body: dict[str, Any], characters: int, tokens: int
) -> None:
    asked = read(json.dumps({"model": "m", **body}))
    assert (asked.characters, asked.tokens) == (characters, tokens)
