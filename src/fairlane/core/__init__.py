"""The state machine under every policy: standard library alone, no clock, no I/O."""
