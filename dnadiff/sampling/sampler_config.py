"""Which sampler, with what: everything that can be settled, or refused, before a letter is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from torch import Tensor

from dnadiff.alphabet import DNA, Alphabet
from dnadiff.diffusion import Denoiser, Objective
from dnadiff.errors import UsageError
from dnadiff.sampling.analytic import analytic
from dnadiff.sampling.ancestral import ancestral
from dnadiff.sampling.autoregressive import autoregressive
from dnadiff.sampling.first_hitting import first_hitting
from dnadiff.sampling.plaid import plaid
from dnadiff.sampling.remasking import Strategy, remasking
from dnadiff.sampling.uniform import uniform

DEFAULT_STEPS = 128


class Sampler(NamedTuple):
    """A way to draw the free letters of a request.

    Attributes:
        draw: from a `SamplingState`, and settings by name, to tokens (B, L).
        noise: what it takes away (`Objective.corruption`).
        settings: their names.
    """

    draw: Callable[..., Tensor]
    corruption: str
    settings: tuple[str, ...] = ("steps",)


SAMPLERS = {
    "ancestral": Sampler(ancestral, "absorbing"),
    "first_hitting": Sampler(first_hitting, "absorbing", ()),
    "analytic": Sampler(analytic, "absorbing"),
    "remasking": Sampler(remasking, "absorbing", ("steps", "remask", "eta")),
    "uniform": Sampler(uniform, "uniform"),
    "plaid": Sampler(plaid, "gaussian"),
    "autoregressive": Sampler(autoregressive, "none", ()),
}


class SamplerConfig(NamedTuple):
    """A sampler of `SAMPLERS` with all its settings; and what the network is shown at once, where that is not all."""

    sampler: str
    settings: Mapping[str, Any]
    window: int | None = None
    stride: int | None = None

    def __str__(self) -> str:
        words = {
            "sampler": self.sampler,
            **self.settings,
            "window": self.window,
            "stride": self.stride,
        }
        return " ".join(
            f"{name}={_plain(value)}" for name, value in words.items() if value is not None
        )


def choose(
    denoiser: Denoiser,
    length: int,
    sampler: str = "auto",
    *,
    objective: Objective | None = None,
    trained: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    alphabet: Alphabet = DNA,
    **settings: Any,
) -> SamplerConfig:
    """Settles "auto" and what is left out (None), for sequences of `length`.

    The arguments are those of `dnadiff.sampling.sample`, and `trained`, the length of the windows that the denoiser was
    trained on: what is longer is drawn in such windows, unless a sampler is named.

    Raises:
        UsageError: if a name is unknown, a number out of range, a setting belongs to another sampler, or the sampler
            cannot be right for this denoiser.
    """
    own = _own(denoiser, objective, alphabet)
    if sampler == "semi_autoregressive" or (sampler == "auto" and own != "autoregressive"):
        window = trained if window is None else window
    if sampler == "semi_autoregressive" and window is None:
        raise UsageError(
            "semi_autoregressive needs --window: the model does not say how long its own windows were"
        )
    sampler = own if sampler in ("auto", "semi_autoregressive") else sampler
    if sampler not in SAMPLERS:
        raise UsageError(
            f"unknown sampler {sampler!r}; there are {', '.join(SAMPLERS)}, semi_autoregressive"
        )
    _check(sampler, objective)
    window, stride = _window(sampler, window, stride)
    if window is not None and window >= length:
        window, stride = None, None
    return SamplerConfig(sampler, _settle(sampler, settings), window, stride)


def _own(denoiser: Denoiser, objective: Objective | None, alphabet: Alphabet) -> str:
    """What "auto" takes: the sampler that needs no compromise."""
    corruption = "absorbing" if objective is None else objective.corruption
    if corruption == "none" or (
        corruption == "absorbing" and denoiser.causal and not denoiser.needs_sigma
    ):
        return "autoregressive"  # a network that sees what lies to the left only is exact in that order, also of masks
    if (
        corruption == "absorbing"
    ):  # a network that may answer "mask" says itself how fast masks are to be lifted
        return "analytic" if denoiser.outputs > len(alphabet) else "ancestral"
    return next(name for name, sampler in SAMPLERS.items() if sampler.corruption == corruption)


def _check(sampler: str, objective: Objective | None) -> None:
    """Refuses a sampler of another noise than the objective's; left to right is an order of lifting masks, too."""
    ours = SAMPLERS[sampler].corruption
    if (
        objective is None
        or objective.corruption == ours
        or (ours, objective.corruption) == ("none", "absorbing")
    ):
        return
    if objective.corruption == "none":
        raise UsageError(
            f"this model was trained from left to right, and {sampler} shows it masks: leave it out"
        )
    raise UsageError(
        f"{sampler} is for {ours} noise, and this model was trained with {objective.noise} noise: leave it out"
    )


def _settle(sampler: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a sampler, with defaults for those that are None."""
    given = {name: value for name, value in given.items() if value is not None}
    for name in given.keys() - SAMPLERS[sampler].settings:
        why = (
            "has no such setting"
            if SAMPLERS[sampler].settings
            else "takes one call for each free letter"
        )
        raise UsageError(f"{sampler} {why}: leave --{name} out")
    steps = given.get("steps", DEFAULT_STEPS)
    defaults = {"steps": steps, "remask": "cap", "eta": 1.0 / max(steps, 1)}
    settings = {name: given.get(name, defaults[name]) for name in SAMPLERS[sampler].settings}
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    if settings.get("remask", "cap") not in get_args(Strategy):
        raise UsageError(
            f"remask cannot be {settings['remask']!r}; there are {', '.join(get_args(Strategy))}"
        )
    if not 0 <= settings.get("eta", 0) <= 1:
        raise UsageError(f"eta must be from 0 to 1, not {settings['eta']}")
    return settings


def _window(sampler: str, window: int | None, stride: int | None) -> tuple[int | None, int | None]:
    if window is None:
        if stride is not None:
            raise UsageError("--stride goes with --window")
        return None, None
    if sampler == "autoregressive":
        raise UsageError(
            "autoregressive goes from left to right through any length: leave --window out"
        )
    if window < 2:
        raise UsageError(f"a window has at least 2 letters, not {window}")
    stride = window // 2 if stride is None else stride
    if not 1 <= stride < window:
        raise UsageError(
            f"stride must be from 1 to {window - 1}, less than the window, not {stride}"
        )
    return window, stride


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
