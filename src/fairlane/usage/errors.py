"""What a database of usage may meet; for those who must do without its library, too."""

from fairlane.core.errors import FairlaneError


class StoreError(FairlaneError):
    """The database cannot be used now."""


class WrongSchema(FairlaneError):
    """The database is of another version, and will be."""
