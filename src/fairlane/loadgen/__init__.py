"""Host 2: an open-loop client against any OpenAI-compatible server, giving the same records."""
