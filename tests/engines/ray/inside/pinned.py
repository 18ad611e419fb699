"""A router for tests: the header x-pin says which replica serves a request, 0 or 1."""

from typing import Any

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter


class Pinned(PowerOfTwoChoicesRequestRouter):  # type: ignore[misc]
    """See the module."""

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """One replica for whoever names one."""
        info = pending_request.args[1] if pending_request is not None else None
        headers = getattr(info, "headers", None)  # of a request to the model
        if headers is None:
            return [candidate_replicas]
        ordered = sorted(candidate_replicas, key=lambda one: str(one.replica_id.unique_id))
        return [[ordered[int(headers.get("x-pin", "0")) % len(ordered)]]]
