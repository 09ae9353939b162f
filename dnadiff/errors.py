"""The one exception that users meet: a line that names the file or record, what was wrong, and what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line, complete in itself."""


class UsageError(InputError):
    """The command itself was wrong (a flag, a combination of flags). The command line exits with 2."""
