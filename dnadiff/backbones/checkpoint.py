"""What every format of checkpoints shares: strict checks of fields and of weights, and the files themselves.

A port that is silently wrong is worse than none. So every field must be known and have a value that is computed
exactly, and every weight must be there, under its name and in its shape, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from dnadiff.errors import InputError

OBJECTIVE_PREFIX = "dnadiff."
"""How the names of weights begin that belong to an objective, not to the network."""


def checked_fields(cls: type, values: Mapping[str, Any], path: Path, what: str) -> Any:
    """`cls(**values)`, if it has such fields and they may have such values.

    Args:
        cls: a dataclass.
        values: by name of the field.
        path: where they come from, for the message.
        what: of which network, for the message: "a Caduceus".

    Raises:
        InputError: naming `path`, the field and what it can be.
    """
    hints = get_type_hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise InputError(
                f"{path}: unknown field {name!r}; this is not {what} that dnadiff can compute exactly"
            )
        if not _fits(value, hints[name]):
            raise InputError(
                f"{path}: {name} cannot be {value!r}; {_wanted(hints[name])} is needed"
            )
    try:
        return cls(**values)
    except ValueError as error:  # two values that do not go together, or a number out of range
        raise InputError(f"{path}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(value, option) for option in get_args(hint))
    if hint is float:
        return type(value) in (int, float) and value >= 0
    return type(value) is hint and (hint is not int or value > 0)


def _wanted(hint: Any) -> str:
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
    """Copies tensors into `model`'s parameters; every one must be there, and nothing else.

    Args:
        model: changed in place.
        tensors: by their names in the file; those of an objective (`OBJECTIVE_PREFIX`) left out.
        path: the file, for the message.
        keys: from one of our names to the name in the file, and to those of weights that must equal it if they are
            there, because the format ties them.

    Raises:
        InputError: naming `path` and the weight.
    """
    left = dict(tensors)
    for name, parameter in model.named_parameters():
        key, *again = keys(name)
        if key not in left:
            raise InputError(f"{path}: the weight {key} is missing")
        value = _checked_weight(left.pop(key), key, parameter, path)
        for tied in again:
            if tied in left and not torch.equal(left.pop(tied), value):
                raise InputError(
                    f"{path}: {tied} differs from the weight that it must be tied to, {key}"
                )
        parameter.copy_(value)
    for key in left:
        raise InputError(f"{path}: unexpected weight {key}")


def _checked_weight(value: Tensor, key: str, parameter: Tensor, path: Path) -> Tensor:
    if value.shape != parameter.shape:
        raise InputError(
            f"{path}: {key} has shape {tuple(value.shape)}, {tuple(parameter.shape)} is needed"
        )
    if not value.is_floating_point():
        raise InputError(
            f"{path}: {key} is of type {value.dtype}, floating-point numbers are needed"
        )
    if not value.isfinite().all():
        raise InputError(
            f"{path}: {key} has a number that is infinite or none; the file is damaged"
        )
    return value


def written(parameter: Tensor) -> Tensor:
    """A weight as it goes into a file: on the CPU, contiguous, with memory of its own."""
    return parameter.detach().cpu().clone(memory_format=torch.contiguous_format)
