"""What fits is served to the end, and what does not is refused before anything runs.

Both ends of the border are tried for every profile, scheduler and memory: a request that passes
the check and is never admitted would end a run with all that was simulated so far.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.errors import FairlaneError
from fairlane.experiments.settings import Settings
from fairlane.policies.registry import policy_names
from fairlane.records import Run
from fairlane.simulator.profile import profile_names
from fairlane.simulator.run import simulate
from fairlane.simulator.serving import AnyServer
from fairlane.workloads import LengthLimit
from fairlane.workloads.trace import TracedRequest

MEMORIES = (37, 38, 48, 63, 64, 300, 1000, 3106, 4112, None)


def settings(profile: str, memory: int | None, scheduler: str = "vtc") -> Settings:
    return Settings(
        suite="overload", scheduler=scheduler, profile=profile, memory_tokens=memory, noise=False
    )


def serve(server: AnyServer, chosen: Settings, requests: list[TracedRequest]) -> Run:
    return simulate(requests, chosen.policy(requests), server)


def longest_of(limit: LengthLimit) -> list[tuple[int, int]]:
    """(prompt, output) of requests that just fit: long prompt, long output, and between."""
    half = limit.total // 2
    shapes = [(limit.prompt, limit.total - limit.prompt), (1, limit.total - 1)]
    return [*shapes, (min(half, limit.prompt), limit.total - min(half, limit.prompt))]


@pytest.mark.parametrize("scheduler", policy_names())
@pytest.mark.parametrize("profile", profile_names())
def test_the_longest_that_fit_are_served_and_one_token_more_is_refused(
    profile: str, scheduler: str
) -> None:
    for memory in MEMORIES:
        chosen = settings(profile, memory, scheduler)
        server = chosen.server()
        limit = server.longest
        for prompt, output in longest_of(limit):
            clients = [TracedRequest(i, str(i), 0.1 * i, prompt, output) for i in range(3)]
            crowd = [*clients, TracedRequest(3, "short", 0.5, 1, 1)]
            run = serve(server, chosen, crowd)
            assert {r.outcome for r in run.records} == {"finished"}, (memory, prompt, output)
        for prompt, output in ((1, limit.total), (limit.prompt + 1, 1)):
            too_long = [TracedRequest(7, "big", 0.0, prompt, output)]
            with pytest.raises(FairlaneError, match=r"request 7 of client big: .* tokens fit"):
                serve(server, chosen, too_long)


@given(data=st.data())
def test_whatever_passes_the_check_ends(data: st.DataObject) -> None:
    """Many clients at once, each with an adapter, of lengths up to the border."""
    profile = data.draw(st.sampled_from(profile_names()))
    scheduler = data.draw(st.sampled_from(policy_names()))
    chosen = settings(profile, data.draw(st.integers(37, 4200)), scheduler)
    server = chosen.server()
    limit = server.longest
    requests = []
    for i in range(data.draw(st.integers(1, 12))):
        prompt = data.draw(st.integers(1, limit.prompt) | st.just(limit.prompt))
        output = data.draw(st.integers(1, limit.total - prompt) | st.just(limit.total - prompt))
        requests.append(
            TracedRequest(i, data.draw(st.sampled_from("abcdefgh")), 0.2 * i, prompt, output)
        )
    run = serve(server, chosen, requests)
    assert all(record.outcome == "finished" for record in run.records)


@pytest.mark.parametrize(
    ("profile", "memory", "total"),
    [
        ("a10g-llama-2-7b", 1000, 965),  # 1000, less one adapter of 32, 2 for the prompt, and 1
        ("a10g-llama-2-7b", 10_000, 3070),
        ("h200-llama-2-7b", 1000, 976),  # 62 blocks of 16, of which vLLM keeps one
        ("h200-llama-2-7b", None, 4096),
    ],
)
def test_limits_worked_by_hand(profile: str, memory: int | None, total: int) -> None:
    assert settings(profile, memory).server().longest.total == total


@pytest.mark.parametrize(("profile", "least"), [("a10g-llama-2-7b", 37), ("h200-llama-2-7b", 32)])
def test_a_memory_in_which_nothing_fits_is_refused(profile: str, least: int) -> None:
    server = settings(profile, least).server()
    run = serve(server, settings(profile, least), [TracedRequest(0, "a", 0.0, 1, 1)])
    assert run.records[0].outcome == "finished"
    with pytest.raises(FairlaneError, match=f"at least {least}, not {least - 1}"):
        settings(profile, least - 1).server()


@given(
    limit=st.tuples(st.integers(2, 60), st.integers(1, 60)).map(
        lambda pair: LengthLimit(min(pair[1], pair[0] - 1), pair[0])
    ),
    prompt=st.integers(1, 100),
    output=st.integers(1, 100),
)
def test_what_is_clipped_fits_and_keeps_as_much_of_the_prompt_as_it_can(
    limit: LengthLimit, prompt: int, output: int
) -> None:
    request = TracedRequest(0, "a", 0.0, prompt, output)
    clipped = limit.clip(request)
    assert limit.complaint(clipped) is None
    assert clipped.prompt_len == min(prompt, limit.prompt)
    assert clipped.output_len == min(output, limit.total - clipped.prompt_len)
    if limit.complaint(request) is None:
        assert clipped == request
