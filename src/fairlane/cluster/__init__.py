"""One fairness over many schedulers: what they charged, exchanged by way of a hub."""
