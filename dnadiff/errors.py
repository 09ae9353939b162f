"""The exceptions that users meet, and the text that may be shown on a terminal."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line, complete in itself."""


class UsageError(InputError):
    """The command itself is wrong: a flag, or a combination of flags. It exits with 2."""


class Terminated(BaseException):
    """The process was asked to end by SIGTERM, as SLURM and Kubernetes do before they kill it.

    Not an `Exception`, so that no handler of ordinary errors catches it on the way.
    """


class Interrupted(Exception):
    """A signal ended a run, which had time to save what is needed to go on.

    Attributes:
        code: the exit status of the process: 128 + the number of the signal.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def printable(text: str) -> str:
    r"""Returns `text` with each character that a terminal would act on as an escape, `\x1b`.

    File names and records may hold control characters, which could clear the screen or forge a
    line, and bytes that are no UTF-8, which no stream can encode.
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """Returns one character as Python would write it in a string."""
    # Lone surrogates, which stand for undecodable bytes, have an escape here as well.
    return char.encode("unicode_escape").decode("ascii")
