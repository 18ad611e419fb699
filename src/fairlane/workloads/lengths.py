"""What a server can ever hold of one request, and what becomes of requests that exceed it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fairlane.workloads.trace import TracedRequest

TOO_LONG = ("refuse", "drop", "clip")


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """The longest requests that can be served, in tokens as a workload counts them.

    prompt: of a prompt. total: of prompt and output together.
    """

    prompt: int
    total: int

    def complaint(self, request: TracedRequest) -> str | None:
        """Why this request can never be served; None where it can."""
        total = request.prompt_len + request.output_len
        if total > self.total:
            return f"prompt_len + output_len is {total}, and at most {self.total} tokens fit"
        if request.prompt_len > self.prompt:
            return f"prompt_len is {request.prompt_len}, and at most {self.prompt} tokens fit"
        return None

    def exceeded_by(self, requests: Sequence[TracedRequest]) -> list[int]:
        """The positions of the requests that are too long."""
        return [i for i, request in enumerate(requests) if self.complaint(request) is not None]

    def clip(self, request: TracedRequest) -> TracedRequest:
        """The request as a server would cut it: its output, and of a prompt too long the rest."""
        prompt = min(request.prompt_len, self.prompt, self.total - 1)
        output = min(request.output_len, self.total - prompt)
        return replace(request, prompt_len=prompt, output_len=output)
