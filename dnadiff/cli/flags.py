"""Turns a verb's typed function into its command line: groups, short names and strict numbers.

The signature and docstring of the function are the only description of its flags. This module adds
what a signature cannot express, from tables for all verbs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter, Token

from dnadiff.yaml_file import parse_yaml

_GROUPS = {
    "Data": """genome labels genome_weight intervals test_fold split blacklist window windows
        tiled jitter min_scorable soft_mask_weight reverse_complement task data folds max_items
        paths name sha256 source offline""",
    "Model": """checkpoint init objective objective_options backbone time_conditioning d_model
        n_layer""",
    "Sampling": """length num template sampler steps remask eta stride temperature top_p label
        guidance guide approximate generate.window generate.genome""",
    "Constraints": "avoid require gc max_homopolymer unique_kmer",
    "Optimisation": """batch_size accumulate max_steps max_time learning_rate final_learning_rate
        warmup cooldown weight_decay clip""",
    "Evaluation": "protocol baselines eval_windows eval_draws eval_max_time",
    "Hardware": "precision devices num_nodes generate.batch_size",
    "Output": "out resume checkpoint_every checkpoint_time log_every json quiet",
    "General": "seed config print_config debug",
}
"""Headings of --help and their flags; VERB.FLAG where a flag means something else for one verb."""

_SHORT = {"num": "-n", "out": "-o", "learning_rate": "--lr"}
"""Second names of flags, as they are usual in other programs."""

SESSION = ("config", "print_config", "debug")
"""Flags that every verb has; main reads them, and no verb is called with them."""


def command(function: Callable[..., Any], settings: type | None = None) -> Callable[..., Any]:
    """Gives a verb's function the signature of its command line.

    Args:
        function: typed, with a docstring that describes each parameter. Parameters after `*` are
            flags only; those before it may also be given without a flag.
        settings: a dataclass whose fields the function takes as `**settings`.

    Returns:
        The same function, to be called as before; only `inspect.signature` differs.
    """
    hints = get_type_hints(function)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            assert settings is not None
            parameters += _fields_as_parameters(settings)
        else:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
    parameters += inspect.signature(_session).parameters.values()

    # If the verb has no flag --init, --checkpoint gets it as an alias below.
    names = {parameter.name for parameter in parameters}
    annotated = [
        parameter.replace(annotation=_annotated(function.__name__, parameter, names))
        for parameter in parameters
    ]
    function.__signature__ = inspect.Signature(annotated)  # type: ignore[attr-defined]
    # cyclopts prefers annotations to the signature, so that both must agree.
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in annotated}
    return function


def _session(
    *,
    config: Annotated[
        str | None,
        Parameter(help="a YAML file of flags, or the name of a shipped recipe; flags win over it."),
    ] = None,
    print_config: Annotated[
        bool, Parameter(help="print all flags as YAML for --config, and do nothing.", negative=())
    ] = False,
    debug: Annotated[bool, Parameter(help="show the traceback of an error.", negative=())] = False,
) -> None:
    """Holds the signature of the flags that every verb has."""


# The module's annotations are strings, which a signature would keep.
_session.__annotations__ = get_type_hints(_session, include_extras=True)


def _fields_as_parameters(of: type) -> list[inspect.Parameter]:
    """Returns one keyword parameter for each field of a dataclass, described by its docstring."""
    hints, described = get_type_hints(of), _descriptions(of)
    return [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(one),
            annotation=Annotated[hints[one.name], Parameter(help=described.get(one.name))],
        )
        for one in fields(of)
    ]


def _default(field: Field[Any]) -> Any:
    """Returns the default of a dataclass field, or the marker of a parameter that has none."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _descriptions(of: type) -> dict[str, str]:
    """Returns the description of each attribute in the docstring of a class."""
    from docstring_parser import parse

    return {item.arg_name: item.description or "" for item in parse(of.__doc__ or "").params}


def _annotated(function: str, parameter: inspect.Parameter, names: set[str]) -> Any:
    """Returns a parameter's annotation with its group, second names and converter."""
    hint = parameter.annotation
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    settings: dict[str, Any] = {"group": _group(function, parameter.name)}
    if parameter.name in _SHORT:
        settings["alias"] = _SHORT[parameter.name]
    elif parameter.name == "checkpoint" and "init" not in names:
        # Verbs that do not train start from one model, so both names can only mean that.
        settings["alias"] = "--init"
    if parameter.default == "-":
        # "-" is stdout. cyclopts then takes any word for a value, even the next flag.
        settings |= {"allow_leading_hyphen": True, "validator": _not_a_flag}

    if get_origin(bare) is dict:
        settings |= {"converter": _table, "accepts_keys": False, "n_tokens": 1}
    elif int in _members(bare):
        settings["converter"] = _whole_number
    # cyclopts would show "None" and "[]".
    if parameter.default is None or parameter.default in ([], {}):
        settings["show_default"] = False  # the description says what happens
    return Annotated[hint, Parameter(**settings)]


def _group(function: str, name: str) -> Group:
    """Returns the group of a flag in --help, in the order of the table."""
    titles: dict[str, str] = {}
    for title, members in _GROUPS.items():
        titles |= dict.fromkeys(members.split(), title)
    found = titles.get(f"{function}.{name}") or titles.get(name, "General")
    return Group(found, sort_key=list(_GROUPS).index(found))


def _members(hint: Any) -> tuple[Any, ...]:
    """Returns the types that a union joins, or the type itself."""
    union = get_origin(hint) not in (None, list, dict, tuple, Literal)
    return get_args(hint) if union else (hint,)


def _not_a_flag(hint: Any, value: str) -> None:
    """Refuses a flag where a file name is needed.

    Raises:
        ValueError: if it begins with a dash and is more than that.
    """
    if value.startswith("-") and value != "-":
        raise ValueError(f"a file or - is needed, not {value!r}; write ./{value} for such a file")


def _whole_number(hint: Any, tokens: Sequence[Token]) -> Any:
    """Reads a whole number, or a word that the type allows; cyclopts alone rounds 1.5 to 2.

    Raises:
        ValueError: if it is neither.
    """
    # ASCII only: int() also reads digits of other scripts, and blanks around them.
    text = tokens[0].value
    members = _members(hint)
    words = [word for one in members if get_origin(one) is Literal for word in get_args(one)]
    if text in words:
        return text
    if not re.fullmatch(r"[+-]?\d+(_\d+)*", text, re.ASCII):
        raise ValueError(" or ".join(["a whole number", *words]))
    return int(text)


def _table(hint: Any, tokens: Sequence[Token]) -> dict[str, Any]:
    """Reads a table of settings that is written as JSON or YAML, such as {"steps": 1000}."""
    return parse_yaml(tokens[0].value, tokens[0].keyword or "table")
