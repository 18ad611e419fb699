"""Which simulated server an engine runs on: a profile and what is changed of it, checked."""

from dataclasses import replace

from fairlane.core.errors import FairlaneError
from fairlane.core.options import AT_LEAST_ONE
from fairlane.core.preemption import default_preemption
from fairlane.policies.registry import get_policy
from fairlane.simulator.profile import VllmProfile, get_profile
from fairlane.simulator.serving import (
    MEASURED_NOISE,
    NO_NOISE,
    AnyServer,
    ServerConfig,
    VllmConfig,
)


def make_server(
    profile_name: str,
    memory_tokens: int | None,
    max_num_seqs: int | None,
    scheduler: str,
    noise: bool,
) -> AnyServer:
    """The settings of the server. Raises FairlaneError for what does not go together."""
    needs = get_policy(scheduler).options & {"true_length", "cached_tokens"}
    if needs:
        what = "true output lengths" if "true_length" in needs else "a prefix cache"
        raise FairlaneError(f"scheduler {scheduler} needs {what}; a simulated engine has none")
    for name, value in (("memory_tokens", memory_tokens), ("max_num_seqs", max_num_seqs)):
        if value is not None:
            AT_LEAST_ONE.check(name, value)
    profile = get_profile(profile_name)
    if isinstance(profile, VllmProfile):
        if max_num_seqs is not None:
            profile = replace(profile, max_num_seqs=max_num_seqs)
        return VllmConfig(
            profile=profile,
            memory_tokens=memory_tokens or 0,
            noise=profile.noise if noise else profile.noise.without(),
            preemption=default_preemption(scheduler),
        )
    if max_num_seqs is not None:
        raise FairlaneError(
            f"max_num_seqs: the server of {profile.name} admits by memory alone; "
            "give memory_tokens, or a profile of vLLM"
        )
    return ServerConfig(
        profile=profile,
        memory_tokens=memory_tokens or 0,
        noise=MEASURED_NOISE if noise else NO_NOISE,
    )
