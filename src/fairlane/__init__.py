"""Fair scheduling of LLM serving between the clients that share it."""

__version__ = "0.1.0"
