"""The one exception that users meet: a line that names the file or record, what was wrong, and what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line, complete in itself."""


class UsageError(InputError):
    """The command itself was wrong (a flag, a combination of flags). The command line exits with 2."""


class Interrupted(Exception):
    """A signal ended a run, which had time to save what is needed to go on.

    Attributes:
        code: the exit status of the process: 128 + the number of the signal.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
