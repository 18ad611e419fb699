"""A synthetic trace that looks like an hour in an LLM arena: few heavy clients, many light."""
