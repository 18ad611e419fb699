"""A server's page: who gets what, live; on any host of the door."""
