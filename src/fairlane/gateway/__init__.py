"""A host before any engine: requests wait here, in a fair policy's order, until it has room."""
