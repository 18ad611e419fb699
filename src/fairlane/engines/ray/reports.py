"""What replicas tell the fair queue of their deployment, and what operators ask it."""

import asyncio
import logging
from typing import Any

from ray.exceptions import RayActorError

from fairlane.core.errors import FairlaneError
from fairlane.engines.ray.private import served_here
from fairlane.engines.ray.queue_actor import find_queue

_WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0)  # between attempts, while the queue starts again
logger = logging.getLogger("ray.serve")
_found: dict[tuple[str, str], Any] = {}  # handles, by app and deployment


async def report(output: int, prompt: int | None) -> bool:
    """See fairlane.engines.ray.report_tokens."""
    if output < 0 or (prompt is not None and prompt < 0):
        raise FairlaneError("report_tokens: numbers of tokens cannot be negative")
    app, deployment, replica, request = served_here()
    missing = None
    for wait in _WAITS_S:
        try:
            queue = await _reach(app, deployment)
            return bool(await queue.report.remote(request, replica, output, prompt))
        except RayActorError:
            _found.pop((app, deployment), None)
        except FairlaneError as error:
            missing = error
        await asyncio.sleep(wait)
    if missing is not None:
        raise missing
    logger.warning("The fair queue of %s does not answer: %s tokens are lost", deployment, output)
    return False


async def state(deployment: str, app: str) -> dict[str, Any]:
    """See fairlane.engines.ray.queue_state."""
    queue = await asyncio.to_thread(find_queue, app, deployment)
    return dict(await queue.state.remote())


async def _reach(app: str, deployment: str) -> Any:
    if (app, deployment) not in _found:
        _found[app, deployment] = await asyncio.to_thread(find_queue, app, deployment)
    return _found[app, deployment]
