"""Measurements of speed: each bench_*.py is a script that prints its numbers (`make bench`)."""
