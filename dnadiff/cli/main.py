"""The entry point: finds the verb, reads its flags, and turns errors into one line and an exit code.

A verb is a typed function in the file of its name. Its signature and docstring give the flags, their help, and what a
YAML file given with --config may set. Only the file of the verb that was asked for is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import json
import logging
import os
import re
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from dnadiff import __version__
from dnadiff.errors import Interrupted, UsageError
from dnadiff.files import resource
from dnadiff.memory import keep_freed_memory

VERBS = {
    "pretrain": "train a diffusion language model on a genome",
    "generate": "draw new sequences from a model, as FASTA",
    "benchmark": "probe models and baselines on classification tasks",
    "report": "one HTML page of runs, samples and benchmark results",
    "export": "write a model in the published Caduceus format",
    "data list": "what can be fetched, how it is checked, and what is there",
    "data fetch": "download a genome, intervals or benchmark coordinates, with checksums",
    "data simulate": "write the demo genome, whose entropy is known exactly",
    "data index": "read and check a FASTA once, so that later reads are fast",
    "data audit": "what train, valid and test share: bases, and exact k-mers",
    "doctor": "what this machine can run, and whether its kernels are right",
}
DONE, FAILED, WRONG_USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns 0 when done, 1 when it failed, 2 for wrong usage."""
    # Threads that spin at barriers take the cores that others need wherever a machine is shared. OpenMP reads this when
    # torch is imported, so it must be said before.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        with _notes(quiet="--quiet" in words):
            return _dispatch([word for word in words if word != "--debug"])
    except KeyboardInterrupt:
        return _fail("interrupted", FAILED)
    except Interrupted as stop:
        return _fail(str(stop), stop.code)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # whoever read stdout has had enough
        return DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = WRONG_USAGE if isinstance(error, UsageError) else FAILED
        expected = isinstance(error, ValueError | OSError)
        return _fail(
            str(error) if expected else f"{type(error).__name__}: {error} (--debug shows where)",
            code,
        )


@contextlib.contextmanager
def _notes(*, quiet: bool) -> Iterator[None]:
    """Inside, what the library has to say of its work goes to stderr."""
    logger, handler = logging.getLogger("dnadiff"), logging.StreamHandler(sys.stderr)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _fail(message: str, code: int) -> int:
    print(f"dnadiff: {' '.join(message.split())}", file=sys.stderr)
    return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return DONE if words else WRONG_USAGE
    if words[0] == "--version":
        print(f"dnadiff {__version__}")
        return DONE
    verb, rest = _verb(words)
    module = importlib.import_module(f"dnadiff.cli.{verb.split()[0]}")
    command = module.COMMANDS[verb]
    parser = _parser(verb, command)
    if {"-h", "--help"} & set(rest):
        print(re.sub(r"--[a-z]\w+", lambda flag: flag[0].replace("_", "-"), parser.format_help()))
        return DONE
    rest = module.prepare(rest) if hasattr(module, "prepare") else rest
    try:
        settings = vars(
            parser.parse_args(_normalised(rest, parser, getattr(module, "BARE", {}).get(verb)))
        )
    except argparse.ArgumentError as error:
        raise UsageError(f"{_plain(str(error))} (see {parser.prog} --help)") from error
    except SystemExit:  # --print_config has printed
        return DONE
    settings.pop("config")
    return command(**settings) or DONE


def _overview() -> str:
    verbs = "\n".join(f"  {verb:<15}{what}" for verb, what in VERBS.items())
    return f"""dnadiff {__version__}: diffusion language models of DNA

usage: dnadiff VERB [flags]

{verbs}

dnadiff VERB --help tells the flags of each. --debug shows the traceback of an error."""


def _verb(words: list[str]) -> tuple[str, list[str]]:
    """The verb, of one word or two, and the words after it."""
    for size in (2, 1):
        verb = " ".join(words[:size])
        if verb in VERBS:
            return verb, words[size:]
    near = difflib.get_close_matches(" ".join(words[:2]), VERBS, 5, 0.4)
    raise UsageError(
        f"no verb {words[0]!r}; {'did you mean ' + ' or '.join(near) + '?' if near else 'see dnadiff -h'}"
    )


def _parser(verb: str, command: Callable[..., Any]) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"dnadiff {verb}", description=VERBS[verb], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument(
        "--config", action="config", help="YAML file, or the name of a shipped recipe."
    )
    parser.add_function_arguments(command, as_group=False)
    return parser


def _plain(message: str) -> str:
    """One line of jsonargparse's message, with flags as they are typed and types by their names."""
    message = " ".join(message.split())
    key = re.search(r'Parser key "(\w+)":', message)
    value = re.search(r"Given value: (.*)|Got value: (.*)", message)
    if key is None or value is None:
        return re.sub(r"--\w+", lambda flag: flag[0].replace("_", "-"), message)
    types = dict.fromkeys(
        name for name in re.findall(r"<class '(\w+)'>", message) if name not in ("NoneType", "str")
    )
    choices = re.search(r"typing.Literal(\[.*?\])", message)
    wanted = (
        f"one of {choices[1]}" if choices else f"a value of type {' or '.join(types) or 'text'}"
    )
    return f"--{key[1].replace('_', '-')}: {wanted} is needed, not {value[1] or value[2]!r}"


def _normalised(words: list[str], parser: ArgumentParser, bare: str | None) -> list[str]:
    """Flags as the parser wants them: with underscores, a switch with its value, a repeated flag as one list.

    Words that belong to no flag are values of the flag called `bare`, where there is one.
    """
    types = {action.dest: str(getattr(action, "_typehint", "")) for action in parser._actions}
    rest = [
        part
        for word in words
        for part in (word.split("=", 1) if re.match(r"--[a-z][\w-]*=", word) else [word])
    ]
    out: list[str] = []
    lists: defaultdict[str, list[str]] = defaultdict(list)
    while rest:
        word = rest.pop(0)
        if not re.fullmatch(r"--[a-z][\w-]*", word):
            if bare is None:
                out.append(word)
                continue
            rest.insert(0, word)
            word, bare = f"--{bare}", bare if "list[" in types[bare] else None
        name = word[2:].replace("-", "_")
        if "list[" in types.get(name, "") and rest:
            lists[name].append(rest.pop(0))
            continue
        out.append(f"--{name}")
        if name == "config" and rest:
            out.append(str(_config(rest.pop(0))))
        elif "bool" in types.get(name, "") and rest[:1] not in (["true"], ["false"]):
            out.append("true")
        elif rest and name in types:
            out.append(rest.pop(0))
    return out + [
        part for name, values in lists.items() for part in (f"--{name}", json.dumps(values))
    ]


def _config(name: str) -> Path:
    """A YAML file, or a shipped recipe by its name."""
    path = Path(name)
    return path if path.is_file() or path.suffix else resource("configs", f"{name}.yaml")
