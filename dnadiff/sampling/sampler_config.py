"""Settings of a sampler: validated when made, and resolved once for a model and a length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, get_args

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion import Denoiser, Objective
from dnadiff.errors import UsageError

DEFAULT_STEPS = 128

Strategy = Literal["cap", "rescale", "confidence", "loop"]
"""How the remasking sampler hides letters again; see `dnadiff.sampling.remasking`."""


class SamplerKind(NamedTuple):
    """The noise that a sampler is for, and the settings that it takes.

    Attributes:
        corruption: the kind of noise that it removes (`Objective.corruption`).
        settings: names of the settings that only some samplers take.
    """

    corruption: str
    settings: tuple[str, ...] = ("steps",)


SAMPLERS = {
    "ancestral": SamplerKind("absorbing"),
    "first_hitting": SamplerKind("absorbing", ()),
    "analytic": SamplerKind("absorbing"),
    "remasking": SamplerKind("absorbing", ("steps", "remask", "eta")),
    "uniform": SamplerKind("uniform"),
    "plaid": SamplerKind("gaussian"),
    "autoregressive": SamplerKind("none", ()),
}
"""The samplers by name; each has a module of its name in `dnadiff.sampling`."""

_TO_RESOLVE = ("auto", "semi_autoregressive")
_OWN_SETTINGS = ("steps", "remask", "eta")


class ExtraSettings(TypedDict, total=False):
    """Keywords of `sample` that are fields of `SamplerConfig`, which documents them."""

    remask: Strategy | None
    eta: float | None
    window: int | None
    stride: int | None
    top_p: float


class NamedSettings(ExtraSettings, total=False):
    """All fields of `SamplerConfig` except the sampler, as keywords."""

    steps: int | None
    temperature: float


class SamplerSettings(NamedSettings, total=False):
    """All fields of `SamplerConfig` as keywords; `sampler` may be a whole configuration."""

    sampler: str | SamplerConfig


@dataclass(frozen=True)
class SamplerConfig:
    """Settings of a sampler. None stands for a default, which `resolve_sampler` fills in.

    Attributes:
        sampler: a name in `SAMPLERS`. "auto" is the objective's own: "ancestral" for absorbing
            noise ("analytic" for a network that can predict the mask), "uniform" for uniform noise,
            "plaid", and "autoregressive" for causal networks that take no noise level.
            "semi_autoregressive" is the same, and needs a window.
        steps: T, the number of network calls at most, for each window; 128 by default.
            first_hitting and autoregressive take a call for each free letter instead.
        remask: how "remasking" hides letters again; "cap" by default.
        eta: the share that it hides, from 0 to 1; 1/steps by default.
        window: positions that the network is shown at once; a longer sequence is drawn a window at
            a time. By default a whole sequence, or with "auto" the windows of training.
        stride: letters that a window draws; half of the window by default.
        temperature: above 0; mu is raised to 1/temperature. 1 samples the model as it is.
        top_p: in (0, 1]; keep the most likely letters whose total probability is at least this.
            1 samples the model as it is.

    Raises:
        UsageError: if a name is unknown, a number is out of range, or a setting belongs to another
            sampler.
    """

    sampler: str = "auto"
    steps: int | None = None
    remask: Strategy | None = None
    eta: float | None = None
    window: int | None = None
    stride: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        # What "auto" stands for is not known yet: `resolve_sampler` makes a configuration with its
        # name, which is then checked here too.
        if self.sampler not in (*SAMPLERS, *_TO_RESOLVE):
            names = ", ".join([*SAMPLERS, "semi_autoregressive"])
            raise UsageError(f"unknown sampler {self.sampler!r}; there are {names}")
        _check_own_settings(self)
        _check_window(self)
        if not self.temperature > 0:
            raise UsageError(f"temperature must be above 0, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {self.top_p}")

    def __str__(self) -> str:
        names = ("sampler", *_OWN_SETTINGS, "window", "stride")
        values = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in values.items() if value is not None}
        return " ".join(f"{name}={_plain(value)}" for name, value in given.items())


def make_config(
    sampler: str | SamplerConfig = "auto", **settings: Unpack[NamedSettings]
) -> SamplerConfig:
    """Returns a configuration from keywords, or the one that is given as `sampler`.

    Raises:
        UsageError: if both a configuration and a setting are given, or a setting is not valid.
    """
    if isinstance(sampler, str):
        return SamplerConfig(sampler, **settings)
    # A setting with its default value may come from a caller that passes all of them on.
    defaults = SamplerConfig()
    for name, value in settings.items():
        if value != getattr(defaults, name):
            raise UsageError(
                f"{name} is given twice: sampler is a SamplerConfig, which has its own"
            )
    return sampler


def resolve_sampler(
    config: SamplerConfig,
    denoiser: Denoiser,
    length: int,
    *,
    objective: Objective | None = None,
    trained_window: int | None = None,
    alphabet: Alphabet = DNA,
) -> SamplerConfig:
    """Fills in "auto" and every setting that is None, for sequences of one length.

    Args:
        config: what the caller asked for.
        denoiser: the network.
        length: L of the sequences, in letters.
        objective: what the network was trained for; absorbing noise (masks) by default.
        trained_window: the length that the network was trained on. "auto" draws a longer sequence
            in windows of that length.
        alphabet: the letters.

    Returns:
        A configuration that names a sampler of `SAMPLERS` and has all of its settings. Its window
        is None where the network is shown whole sequences.

    Raises:
        UsageError: if a setting belongs to another sampler than the one that "auto" takes, or the
            sampler does not suit this denoiser.
    """
    own = _own_sampler(denoiser, objective, alphabet)
    name, window = config.sampler, config.window
    if name == "semi_autoregressive" or (name == "auto" and own != "autoregressive"):
        # How a network behaves beyond its training length is unknown, so "auto" does not exceed it.
        window = trained_window if window is None else window
        if name == "semi_autoregressive" and window is None:
            raise UsageError(
                "semi_autoregressive needs a window: the model does not say how long the windows "
                "of its training were"
            )
    name = own if name in _TO_RESOLVE else name
    _check_objective(name, objective)

    stride = config.stride
    if window is None and stride is not None:
        raise UsageError("stride needs a window: give window too")
    if window is not None and stride is None:
        stride = max(1, window // 2)
    # Settings that were given are checked here against the sampler that "auto" stands for.
    config = replace(config, sampler=name, window=window, stride=stride, **_defaults(config, name))
    # A sequence that fits into one window is drawn whole, which is exact.
    if window is not None and window >= length:
        return replace(config, window=None, stride=None)
    return config


def _defaults(config: SamplerConfig, name: str) -> dict[str, Any]:
    """Returns the settings of a sampler that were left out, with their defaults."""
    steps = DEFAULT_STEPS if config.steps is None else config.steps
    defaults = {"steps": steps, "remask": "cap", "eta": 1.0 / steps}
    missing = [key for key in SAMPLERS[name].settings if getattr(config, key) is None]
    return {key: defaults[key] for key in missing}


def _own_sampler(denoiser: Denoiser, objective: Objective | None, alphabet: Alphabet) -> str:
    """Returns the sampler that "auto" stands for: the default of the objective and network."""
    corruption = "absorbing" if objective is None else objective.corruption
    # A causal network samples its distribution exactly from left to right, masks or not.
    blind_to_the_right = denoiser.causal and not denoiser.needs_sigma
    if corruption == "none" or (corruption == "absorbing" and blind_to_the_right):
        return "autoregressive"
    if corruption == "absorbing":
        # The unmasking rate of a network that can predict the mask depends on its outputs.
        return "analytic" if denoiser.outputs > len(alphabet) else "ancestral"
    # There is one sampler for each of the other kinds of noise.
    return next(name for name, kind in SAMPLERS.items() if kind.corruption == corruption)


def _check_objective(sampler: str, objective: Objective | None) -> None:
    """Refuses a sampler of another kind of noise than the objective's."""
    ours = SAMPLERS[sampler].corruption
    # From left to right is one order of lifting masks, so it fits absorbing noise too.
    allowed = ("absorbing", "none") if ours == "none" else (ours,)
    if objective is None or objective.corruption in allowed:
        return
    if objective.corruption == "none":
        raise UsageError(
            f"this model was trained from left to right, and {sampler} shows it masks: "
            "leave sampler out"
        )
    raise UsageError(
        f"{sampler} is for {ours} noise, and this model was trained with "
        f"{objective.corruption} noise: leave sampler out"
    )


def _check_own_settings(config: SamplerConfig) -> None:
    """Refuses settings that are out of range, or that a named sampler does not have."""
    if config.sampler in SAMPLERS:
        own = SAMPLERS[config.sampler].settings
        why = "has no such setting" if own else "takes one call for each free letter"
        for name in _OWN_SETTINGS:
            if name not in own and getattr(config, name) is not None:
                raise UsageError(f"{config.sampler} {why}: leave {name} out")
    if config.steps is not None and config.steps < 1:
        raise UsageError(f"steps must be at least 1, not {config.steps}")
    if config.remask is not None and config.remask not in get_args(Strategy):
        names = ", ".join(get_args(Strategy))
        raise UsageError(f"remask cannot be {config.remask!r}; there are {names}")
    if config.eta is not None and not 0 <= config.eta <= 1:
        raise UsageError(f"eta must be from 0 to 1, not {config.eta}")


def _check_window(config: SamplerConfig) -> None:
    """Refuses a window or a stride that is out of range."""
    window, stride = config.window, config.stride
    if window is not None:
        if config.sampler == "autoregressive":
            raise UsageError(
                "autoregressive goes from left to right through any length: leave window out"
            )
        if window < 2:
            raise UsageError(f"window must be at least 2 letters, not {window}")
    if stride is not None and stride < 1:
        raise UsageError(f"stride must be at least 1, not {stride}")
    if window is not None and stride is not None and stride >= window:
        raise UsageError(
            f"stride must be from 1 to {window - 1}, less than the window, not {stride}"
        )


def _plain(value: Any) -> str:
    """Returns a value as a header shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
