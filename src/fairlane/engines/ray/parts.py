"""Each replica's part of limits, which no replica knows of the others to have used."""

import asyncio
import logging

from fairlane.door.admission import Admission
from fairlane.engines.ray.private import replicas_now

log = logging.getLogger("ray.serve")
REPLICAS_S = 10.0  # how often a replica asks how many there are


class Parts:
    """Has each replica's part of limits follow how many there are, as they come and go.

    It begins at once, in the event loop that runs, and lasts as long as its owner keeps it.
    """

    def __init__(self, admission: Admission, every_s: float = REPLICAS_S) -> None:
        self._admission, self._every_s = admission, every_s
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                self._admission.share(await asyncio.to_thread(replicas_now))
            except Exception as error:  # such as a controller that is restarted: the parts stay
                log.warning("how many replicas there are is not known: %s", error)
