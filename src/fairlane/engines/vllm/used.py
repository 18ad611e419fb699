"""What the schedulers of a vLLM server served, for usage that is kept."""

from typing import Any

from fairlane.engines.vllm.frontend import api_server, ask_engine
from fairlane.usage.tally import Grown


async def take_usage(engine_client: Any, model: str) -> list[Grown]:
    """What the schedulers served since they were last asked, of the engine's model or adapters.

    Waits for as long as it takes: an answer that nobody hears would count nowhere. The first of
    several API servers takes; the others get nothing.
    """
    if api_server(engine_client):
        return []
    found = await ask_engine(engine_client, "fairlane_take_usage", timeout_s=None)
    return [Grown.of(rows, model) for rows in found]


def served_model(app: Any) -> str:
    """The name by which clients ask for the engine's model; "" where nobody says."""
    args = getattr(getattr(app, "state", None), "args", None)
    names = getattr(args, "served_model_name", None) or [getattr(args, "model", None) or ""]
    return str(names if isinstance(names, str) else names[0])
