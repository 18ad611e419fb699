"""Scheduling policies, one algorithm per file, and the registry that names them."""
