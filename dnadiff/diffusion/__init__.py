"""Objectives: how each corrupts a sequence, its training loss, and its bound on the likelihood."""

import inspect
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dnadiff.diffusion.autoregressive import Autoregressive
from dnadiff.diffusion.corpus import CorpusBound, corpus_bound, summarise
from dnadiff.diffusion.d3pm import D3PM
from dnadiff.diffusion.masked_lm import MaskedLM
from dnadiff.diffusion.mdlm import MDLM
from dnadiff.diffusion.objective import Bound, Denoiser, Draw, Loss, Objective, conditioned
from dnadiff.diffusion.plaid import Plaid
from dnadiff.diffusion.sedd import SEDD
from dnadiff.diffusion.udlm import UDLM
from dnadiff.errors import UsageError

OBJECTIVES: dict[str, type[Objective]] = {
    "mdlm": MDLM,
    "sedd": SEDD,
    "d3pm": D3PM,
    "udlm": UDLM,
    "plaid": Plaid,
    "autoregressive": Autoregressive,
    "masked_lm": MaskedLM,
}


def make_objective(name: str, options: Mapping[str, Any] | None = None) -> Objective:
    """Makes an objective.

    Args:
        name: a key of `OBJECTIVES`.
        options: keyword arguments of the objective's class.

    Raises:
        UsageError: if the name, an option or its value is unknown.
    """
    options = options or {}
    if name not in OBJECTIVES:
        raise UsageError(f"unknown objective {name!r}; there are {', '.join(OBJECTIVES)}")
    known = [p for p in inspect.signature(OBJECTIVES[name]).parameters if p != "alphabet"]
    for option in options:
        if option not in known:
            raise UsageError(
                f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}"
            )

    # The options come from YAML, so their types are checked against those of the signature.
    hints = get_type_hints(OBJECTIVES[name].__init__)
    for option, value in options.items():
        if not _fits(value, hints[option]):
            raise UsageError(f"objective {name}: {option} cannot be {value!r}")
    try:
        return OBJECTIVES[name](**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"objective {name}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value has the type of an option; the objective checks its range."""
    # An option such as `int | None` accepts any of its types.
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any(_is_a(value, kind) for kind in kinds)


def _is_a(value: Any, kind: Any) -> bool:
    """Returns whether a value has exactly a type, so that True does not count as an int."""
    # The objective itself refuses an unknown choice, with a message that lists the known ones.
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    # A string is a Sequence in Python too, but not a valid value of such an option.
    if get_origin(kind) is Sequence:
        return isinstance(value, list | tuple)
    return type(value) is kind


def name_of(objective: Objective) -> str:
    """Returns the name of an objective in `OBJECTIVES`."""
    return next(name for name, cls in OBJECTIVES.items() if type(objective) is cls)


__all__ = [
    "D3PM",
    "MDLM",
    "OBJECTIVES",
    "SEDD",
    "UDLM",
    "Autoregressive",
    "Bound",
    "CorpusBound",
    "Denoiser",
    "Draw",
    "Loss",
    "MaskedLM",
    "Objective",
    "Plaid",
    "conditioned",
    "corpus_bound",
    "make_objective",
    "name_of",
    "summarise",
]
