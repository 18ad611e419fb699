"""Hosts that are inference engines: one package each."""
