"""Experiments: suite x policy x host -> records and manifest, and what is drawn from them."""
