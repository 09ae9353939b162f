"""Strict YAML: each key once, bounded size, and values whose text can be read as it was written.

A recipe or a demo source is a small table of settings. Plain YAML accepts more than that: a key
that silently overrides an earlier one, and aliases that expand a few hundred bytes to gigabytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dnadiff.errors import InputError

MAX_BYTES = 1_000_000
"""Largest file that is read."""

MAX_NODES = 100_000
"""Most values after all aliases are expanded."""

_MERGE_TAG = "tag:yaml.org,2002:merge"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Reads a YAML table of settings as Python values.

    Raises:
        InputError: naming the file and line, if it is missing, is not YAML, is not a table, has a
            key twice, or is larger than a table of settings can be.
    """
    return values(read_node(path), str(path))


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """Reads a YAML (or JSON) table from `text`; `name` stands for the file in errors."""
    return values(_checked(text, name), name)


def values(node: yaml.Node, name: str) -> Any:
    """Returns the Python values of a checked node."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{name}: not a YAML file ({_one_line(error)})") from error
    finally:
        loader.dispose()


def read_node(path: str | Path) -> yaml.MappingNode:
    """Reads a YAML table of settings as nodes, which keep the text and the line of each value.

    See `read_yaml` for errors.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # of an endless device, too, no more
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{path}: larger than {MAX_BYTES:,} bytes, which no file of settings needs"
        )
    return _checked(data, str(path))


def _checked(data: str | bytes, name: str) -> yaml.MappingNode:
    """Parses and checks one YAML document; see `read_yaml` for errors."""
    # Composing makes nodes of the text without making values of them: aliases stay shared.
    try:
        node = yaml.compose(data, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeError) as error:
        raise InputError(f"{name}: not a YAML file ({_one_line(error)})") from error
    except RecursionError as error:
        raise InputError(f"{name}: too deeply nested for a file of settings") from error
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{name}: not a YAML table of settings, such as window: 1024")

    _check_keys(node, name)
    try:
        count = _expanded_size(node, {}, set())
    except RecursionError as error:
        raise InputError(f"{name}: an alias refers to itself") from error
    if count > MAX_NODES:
        raise InputError(f"{name}: its aliases expand to more than {MAX_NODES:,} values")
    yaml.SafeLoader("").flatten_mapping(node)  # what << merges
    return node


def _check_keys(root: yaml.Node, name: str) -> None:
    """Refuses a key that is given twice in one table.

    Raises:
        InputError: naming the key and both lines.
    """
    # Every node is visited once, however often aliases repeat it.
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if not isinstance(node, yaml.MappingNode):
            continue
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"{name}, line {line}: a key must be a word")
            if key.value in first and key.tag != _MERGE_TAG:
                raise InputError(
                    f"{name}, line {line}: {key.value} is set in line {first[key.value]} already"
                )
            first[key.value] = line
            waiting.append(value)


def _expanded_size(node: yaml.Node, known: dict[int, int], open_: set[int]) -> int:
    """Returns how many values `node` stands for, aliases expanded, without expanding them.

    Raises:
        RecursionError: if a node contains itself.
    """
    if id(node) in open_:
        raise RecursionError
    # Each node is counted once and remembered, so that the time is that of the file's size.
    if id(node) not in known:
        open_.add(id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [value for _, value in node.value]
        known[id(node)] = 1 + sum(_expanded_size(child, known, open_) for child in children)
        open_.remove(id(node))
    return known[id(node)]


def _one_line(error: Exception) -> str:
    """Returns an error's message without line breaks."""
    return " ".join(str(error).split())
