"""What part of a limit each replica has, while there come to be more and fewer of them."""

from ray import serve

from fairlane.door.admission import Admission
from fairlane.engines.ray.parts import Parts
from tests.processes import wait_until


class Limited:
    """A replica that looks every tenth of a second how many there are."""

    def __init__(self) -> None:
        self._admission = Admission(lambda _: None)
        self._parts: Parts | None = None

    async def __call__(self) -> int | None:
        if self._parts is None:
            self._parts = Parts(self._admission, every_s=0.1)
        return self._admission.part(12)


def test_a_replicas_part_of_a_limit_follows_how_many_there_are(port: int) -> None:
    for replicas, part in ((1, 12), (2, 6), (1, 12)):
        deployment = serve.deployment(
            Limited, num_replicas=replicas, ray_actor_options={"num_cpus": 0.1}
        )
        handle = serve.run(deployment.bind(), name="limited", route_prefix=None)
        wait_until(
            lambda: {handle.remote().result() for _ in range(8)},  # noqa: B023 - called here alone
            lambda now: now == {part},  # noqa: B023
            f"{replicas} share",
        )
    serve.delete("limited")
