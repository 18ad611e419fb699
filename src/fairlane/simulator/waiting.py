"""What slora.py's loop has to know of the queue, whose order is the policy's."""

from collections import Counter

NONE = 1 << 62  # longer than any length


class Lengths(Counter[int]):
    """A multiset of lengths that knows the least of them (huge when it is empty)."""

    least = NONE

    def add(self, length: int) -> None:
        """One more of this length."""
        self[length] += 1
        if length < self.least:
            self.least = length

    def remove(self, length: int) -> None:
        """One less of this length."""
        self[length] -= 1
        if not self[length]:
            del self[length]
            if length == self.least:
                self.least = min(self, default=NONE)


class Waiting(dict[int, tuple[str, int, int]]):
    """By position: a request's client, prompt and output. prompts, outputs: all their lengths.

    Only `add` and `remove` change it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clients: Counter[str] = Counter()
        self.prompts = Lengths()
        self.outputs = Lengths()

    def add(self, position: int, client: str, prompt: int, output: int) -> None:
        """A request was queued."""
        self[position] = client, prompt, output
        self.clients[client] += 1
        self.prompts.add(prompt)
        self.outputs.add(output)

    def remove(self, position: int) -> None:
        """A request left the queue."""
        client, prompt, output = self.pop(position)
        self.clients[client] -= 1
        if not self.clients[client]:
            del self.clients[client]
        self.prompts.remove(prompt)
        self.outputs.remove(output)
