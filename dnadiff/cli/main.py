"""Finds the verb, reads its flags, and turns errors into one line and an exit code.

A verb is a typed function in the file of its name. Its signature and docstring give the flags,
their help, and what a YAML file given with --config may set. Only the file of the verb that was
asked for is imported.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from inspect import BoundArguments
from types import FrameType
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from dnadiff import __version__
from dnadiff.cli.config import ConfigFile, to_yaml
from dnadiff.cli.flags import SESSION
from dnadiff.cli.help import HelpLayout
from dnadiff.cli.hints import explain
from dnadiff.cli.verbs import EXAMPLES, FUNCTIONS, GROUPS, VERBS, find_verb
from dnadiff.errors import InputError, Interrupted, Terminated, UsageError, printable
from dnadiff.memory import keep_freed_memory

__all__ = ["VERBS", "build_app", "main"]

_LOG = logging.getLogger("dnadiff")

DONE, FAILED, WRONG_USAGE = 0, 1, 2
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes that shells give for SIGINT and SIGTERM, 128 plus the signal's number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.
    """
    # On a shared machine, threads that spin at barriers take cores from other processes. OpenMP
    # reads this variable when torch is imported, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path may hold bytes or letters that stdout cannot encode: escape them, do not fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_raises():
            code = _run(words)
            sys.stdout.flush()  # raises BrokenPipeError here, and not at exit
            return code
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Terminated:
        return _fail("terminated", TERMINATED)
    except Interrupted as stop:
        return _fail(str(stop), stop.code)
    except SystemExit as stop:
        return _exit_code(stop)
    except BrokenPipeError:
        # The reader of stdout has ended, for example head. Python flushes stdout once more at exit,
        # which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if _asks_for_debug(words):
            traceback.print_exc()
        code = WRONG_USAGE if isinstance(error, UsageError) else FAILED
        return _fail(_message(error), code)


def build_app(asked: str | None = None, config: ConfigFile | None = None) -> App:
    """Returns the parser of all verbs.

    Args:
        asked: the verb whose own description is shown by --help. Other verbs are not imported
            until they are used.
        config: reads the file of --config.
    """
    shared: dict[str, Any] = {
        "help_format": "plaintext",
        "version_flags": (),
        "help_formatter": HelpLayout(),
    }
    root = App(
        name="dnadiff",
        help="Diffusion language models of DNA.",
        help_epilogue="dnadiff VERB --help describes the flags of each verb.",
        version=f"dnadiff {__version__}",
        default_parameter=Parameter(negative_iterable=(), json_list=False, json_dict=False),
        config=ConfigFile() if config is None else config,
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
        verbose=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
        **(shared | {"version_flags": ("--version",)}),
    )
    groups = {}
    for word, subject in GROUPS.items():
        verbs = ", ".join(verb for verb in VERBS if verb.startswith(f"{word} "))
        groups[word] = App(name=word, help=f"{subject}: {verbs}", help_epilogue="", **shared)
        root.command(groups[word])
    for order, (verb, summary) in enumerate(VERBS.items()):
        module, name = verb.split()[0], verb.split()[-1]
        # Without help, cyclopts imports the verb and shows its docstring.
        described = {} if verb == asked else {"help": summary}
        groups.get(module, root).command(
            f"dnadiff.cli.{module}:{FUNCTIONS.get(verb, name)}",
            name=name,
            sort_key=order,
            help_epilogue="\n  ".join(["Examples:", *EXAMPLES[verb]]),
            **shared,
            **described,
        )
    root.register_install_completion_command(
        help="Install completion for your shell (bash, zsh, fish or PowerShell) and exit."
    )
    return root


def _run(words: list[str]) -> int:
    """Parses a command line and calls its verb."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    verb = find_verb(words)
    config = ConfigFile()
    app = build_app(verb, config)
    try:
        function, bound, _ = app.parse_args(words)
    except CycloptsError as error:
        raise UsageError(explain(error, verb)) from error
    if "print_config" not in getattr(function, "__annotations__", ()):
        function(*bound.args, **bound.kwargs)  # --help, --version and the like
        return DONE if words else WRONG_USAGE

    with _log_to_stderr(quiet=bool(bound.arguments.get("quiet"))):
        if config.note:
            _LOG.info(config.note)
        if bound.arguments.get("print_config"):
            print(to_yaml(bound), end="")
            return DONE
        try:
            return function(**_given(bound)) or DONE
        except InputError as error:
            # The type is kept, because a UsageError has another exit code.
            raise type(error)(_with_flags(str(error), bound)) from error


def _with_flags(message: str, bound: BoundArguments) -> str:
    """Returns a message of the library with names of parameters replaced by those of flags.

    Only names with an underscore are replaced, because other names are also English words. A name
    that is part of a path is kept.
    """
    for name in bound.signature.parameters:
        if "_" in name:
            flag = f"--{name.replace('_', '-')}"
            message = re.sub(rf"(?<![\w/.-]){name}(?![\w/.])", flag, message)
    return message


def _given(bound: BoundArguments) -> dict[str, Any]:
    """Returns the arguments that the verb's function is called with."""
    return {name: value for name, value in bound.arguments.items() if name not in SESSION}


def _asks_for_debug(words: list[str]) -> bool:
    """Tells whether --debug was given, even on a command line that cannot be parsed."""
    return "--debug" in words or "--debug=true" in words


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated`, so that files are closed and checkpoints written."""
    # Python handles signals only in the main thread; elsewhere SIGTERM ends the process as usual.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    """Handles SIGTERM."""
    raise Terminated


@contextlib.contextmanager
def _log_to_stderr(*, quiet: bool) -> Iterator[None]:
    """Sends the library's log to stderr: all of it, or warnings only if `quiet`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PrintableFormatter())
    level = _LOG.level
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        _LOG.removeHandler(handler)
        _LOG.setLevel(level)


class _PrintableFormatter(logging.Formatter):
    """Formats log records without characters that a terminal would act on."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the lines of a record, each made printable."""
        return "\n".join(printable(line) for line in super().format(record).split("\n"))


def _message(error: Exception) -> str:
    """Returns the line that describes an error; an unexpected one also names its class."""
    if isinstance(error, ValueError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


def _fail(message: str, code: int) -> int:
    """Prints one line to stderr and returns the exit code."""
    with contextlib.suppress(BrokenPipeError):
        print(f"dnadiff: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _exit_code(stop: SystemExit) -> int:
    """Returns the exit code of a library that ended the process itself."""
    # On Ctrl-C Lightning calls sys.exit(1), which is neither a failure nor success.
    if isinstance(stop.__context__, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or DONE
    return _fail(str(stop.code), FAILED)
