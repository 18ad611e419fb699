"""A server in a box: serving-loop models that run any policy faster than real time."""
