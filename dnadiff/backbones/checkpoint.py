"""Shared by all checkpoint formats: strict checks of fields and weights, and writing the files.

A network that loads but computes something else is worse than an error. So every field must be
known and have a supported value. Every weight must be present with its name and shape, and no other
weight may be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from dnadiff.backbones.weights import write_tensors
from dnadiff.errors import InputError
from dnadiff.files import write_json

OBJECTIVE_PREFIX = "dnadiff."
"""Prefix of the names of weights that are not part of the published network."""


def checked_fields(cls: type, values: Mapping[str, Any], path: Path, what: str) -> Any:
    """Creates `cls(**values)` after checking that each field exists and may have its value.

    Args:
        cls: a dataclass.
        values: by name of the field.
        path: the file they come from, for the message.
        what: the kind of network, for the message: "a Caduceus".

    Raises:
        InputError: naming `path`, the field and what it can be.
    """
    hints = get_type_hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise InputError(
                f"{path}: unknown field {name!r}; dnadiff cannot compute {what} with it exactly"
            )
        if not _fits(value, hints[name]):
            raise InputError(
                f"{path}: {name} cannot be {value!r}; it must be {_wanted(hints[name])}"
            )
    try:
        return cls(**values)
    except ValueError as error:  # two values that contradict each other, or a number out of range
        raise InputError(f"{path}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value from JSON has the type `hint`; integers must be positive.

    A float must not be negative.
    """
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(value, option) for option in get_args(hint))
    # Some programs write 1.0 as 1 in JSON.
    if hint is float:
        return type(value) in (int, float) and value >= 0
    # `type(...) is`, not isinstance: True is an int to Python.
    return type(value) is hint and (hint is not int or value > 0)


def _wanted(hint: Any) -> str:
    """Describes a type for a message."""
    if get_origin(hint) is Literal:
        return " or ".join(repr(option) for option in get_args(hint))
    if get_args(hint):
        return " or ".join(_wanted(option) for option in get_args(hint))
    words = {
        int: "a whole number above 0",
        float: "a number that is not negative",
        bool: "true or false",
    }
    return words.get(hint, "a table of settings")


@torch.no_grad()
def copy_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    path: Path,
    keys: Callable[[str], list[str]] = lambda name: [name],
) -> None:
    """Copies tensors into the parameters of `model`; none may be missing and none may be left over.

    Args:
        model: changed in place.
        tensors: by their names in the file, without those under `OBJECTIVE_PREFIX`.
        path: the file, for the message.
        keys: maps the name of a parameter to its name in the file, followed by the names of weights
            that the format ties to it: these may be absent, and must be equal if present.

    Raises:
        InputError: naming `path` and the weight.
    """
    # Each weight is removed from `left` when it is used; any that remain are unexpected.
    left = dict(tensors)
    for name, parameter in model.named_parameters():
        key, *tied_keys = keys(name)
        if key not in left:
            raise InputError(f"{path}: the weight {key} is missing")
        value = _checked_weight(left.pop(key), key, parameter, path)
        # A file may contain a tied weight twice; if the copies differ, one of them is wrong.
        for tied in tied_keys:
            if tied in left and not torch.equal(left.pop(tied), value):
                raise InputError(f"{path}: {tied} differs from {key}, to which the format ties it")
        parameter.copy_(value)
    for key in left:
        raise InputError(f"{path}: unexpected weight {key}")


def _checked_weight(value: Tensor, key: str, parameter: Tensor, path: Path) -> Tensor:
    """Checks the shape, type and values of a weight from a file."""
    if value.shape != parameter.shape:
        raise InputError(
            f"{path}: {key} has shape {tuple(value.shape)}; it must be {tuple(parameter.shape)}"
        )
    if not value.is_floating_point():
        raise InputError(f"{path}: {key} is of type {value.dtype}; it must be floating-point")
    if not value.isfinite().all():
        raise InputError(f"{path}: {key} has an infinite value or a NaN; the file is damaged")
    return value


def without_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of the network itself, without those under `OBJECTIVE_PREFIX`."""
    return {name: t for name, t in tensors.items() if not name.startswith(OBJECTIVE_PREFIX)}


def stored(parameter: Tensor) -> Tensor:
    """Copies a parameter for a file: on the CPU, contiguous, with memory of its own."""
    return parameter.detach().cpu().clone(memory_format=torch.contiguous_format)


def write_model_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Writes model.safetensors and config.json into `folder`, which is created if absent.

    config.json comes last: a folder without it is not taken for a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", config)
