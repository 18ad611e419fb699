"""Who may come in, on any HTTP host, and what is told of it: knows ASGI, and no engine."""
