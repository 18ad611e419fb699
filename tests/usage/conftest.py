"""What tests of usage share with those of the gateway."""

from tests.gateway.conftest import any_desk

__all__ = ["any_desk"]
