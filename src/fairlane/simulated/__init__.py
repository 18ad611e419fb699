"""An engine without a GPU: the simulator's serving loops in real time, behind OpenAI's API."""

from fairlane.simulated.app import SimulatedEngine

__all__ = ["SimulatedEngine"]
