"""YAML files of flags: reads --config, which the command line overrides, and prints one."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from cyclopts import Argument, ArgumentCollection, Token

from dnadiff.cli.flags import SESSION
from dnadiff.errors import InputError, UsageError
from dnadiff.files import resource
from dnadiff.yaml_file import read_node, values

if TYPE_CHECKING:
    from cyclopts import App

_RUN_ONLY = ("out", "resume", "quiet")
"""Flags of a single run, which --print-config prints only if they were given."""

_NULL, _BOOL = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"


class ConfigFile:
    """Takes each flag that the command line does not give from the YAML file of --config.

    cyclopts calls it after it has read the whole command line, so that the position of --config
    does not matter.

    Attributes:
        note: says which recipe was chosen if the command line names none; shown once the command
            line has been checked.
    """

    def __init__(self) -> None:
        self.note = ""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Adds the settings of the file to `arguments`.

        Raises:
            UsageError: naming the file, line and setting, if a setting does not exist or cannot
                be used; or if one flag was given under two names.
        """
        flags = {argument.field_info.name: argument for argument in arguments}
        if "config" not in flags:
            return  # the root's own flags, such as --install-completion
        for argument in arguments:
            _check_one_name(argument)
        name = _value(flags["config"])
        if name is None and commands == ("pretrain",):
            # Imports torch to look for a GPU, so only if the default depends on it.
            from dnadiff.cli.pretrain import default_config

            name, self.note = default_config(_value(flags["resume"]))
        if name is not None:
            _fill_in(flags, _config_file(name))


def _fill_in(flags: dict[str, Argument], path: Path) -> None:
    """Gives each flag without a value that of the file; see `ConfigFile` for errors."""
    try:
        root = read_node(path)
    except InputError as error:
        raise UsageError(str(error)) from error
    for key, node in root.value:
        setting, place = key.value, f"{path}, line {key.start_mark.line + 1}"
        if setting not in flags or setting in SESSION:
            raise UsageError(f"{place}: no setting {setting!r}{_near(setting, flags)}")
        if flags[setting].tokens:
            continue  # the command line wins
        for token in _tokens(flags[setting], node, place):
            flags[setting].append(token)


def _value(argument: Argument) -> str | None:
    """Returns the text that a flag was given on the command line."""
    return argument.tokens[0].value if argument.tokens else None


def _check_one_name(argument: Argument) -> None:
    """Refuses one flag under two names, whose values a list would silently join.

    Raises:
        UsageError: naming both.
    """
    given = dict.fromkeys(token.keyword for token in argument.tokens if token.keyword)
    # --x with --no-x is a repeated flag, which cyclopts refuses.
    names = [name for name in given if not name.startswith("--no-")]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} are two names of one flag: give one of them")


def _config_file(name: str) -> Path:
    """Returns a YAML file, or a shipped recipe by its name; see `resource` for errors."""
    path = Path(name)
    return path if path.is_file() or path.suffix else resource("configs", f"{name}.yaml")


def _near(word: str, known: dict[str, Any]) -> str:
    """Returns a hint at the known settings that `word` resembles."""
    near = difflib.get_close_matches(word, [name for name in known if name not in SESSION], 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _tokens(argument: Argument, node: yaml.Node, place: str) -> Iterator[Token]:
    """Yields a YAML value as the words that a command line would give for it.

    A scalar keeps its text in the file: a class called 007 or true is not converted.

    Raises:
        UsageError: if the kind of value does not fit the flag.
    """
    name, default = argument.field_info.name, argument.field_info.default
    is_table = argument.parameter.accepts_keys is False
    many = argument.token_count()[1]

    def token(text: str, index: int = 0) -> Token:
        return Token(keyword=name, value=text, source=place, index=index)

    if _is_null(node):
        if default is not None:
            raise UsageError(f"{place}: {name} cannot be null; its default is {default!r}")
    elif is_table:
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{place}: {name} must be a table, such as {{steps: 1000}}")
        # As one word, which the converter of tables reads.
        yield token(yaml.safe_dump(values(node, place), default_flow_style=True))
    elif isinstance(node, yaml.SequenceNode) and many:
        if any(not isinstance(item, yaml.ScalarNode) or _is_null(item) for item in node.value):
            raise UsageError(f"{place}: {name} must be a plain list of values")
        if not node.value:
            # An empty list is a value of its own if the default means "all".
            yield token("").evolve(implicit_value=[])
        for index, item in enumerate(node.value):
            yield token(item.value, index)
    elif isinstance(node, yaml.ScalarNode):
        # Only a switch may be written as on or off; for a text flag these are ordinary words.
        truth = node.tag == _BOOL and argument.is_flag()
        yield token(str(values(node, place)).lower() if truth else node.value)
    else:
        raise UsageError(f"{place}: {name} must be one value")


def _is_null(node: yaml.Node) -> bool:
    """Tells whether a value is null, which a quoted "null" is not."""
    return node.tag == _NULL


def to_yaml(bound: inspect.BoundArguments) -> str:
    """Returns the flags of a command as YAML that `ConfigFile` reads back."""
    # apply_defaults() below adds all the others.
    given = set(bound.arguments)
    bound.apply_defaults()
    settings = {
        name: value
        for name, value in bound.arguments.items()
        if name not in SESSION and (name in given or name not in _RUN_ONLY)
    }
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
