"""What adversaries send, for Hypothesis."""

from benchmarks.adversary import LIMITS, Wave
from hypothesis import strategies as st

CLIENTS = ("c0", "c1", "c2")
any_wave = st.builds(
    Wave,
    client=st.sampled_from(CLIENTS),
    **{field: st.integers(low, high) for field, (low, high) in LIMITS.items()},
)
