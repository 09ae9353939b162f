"""Self-checks: which backends each kernel has on a device, and whether they compute what the reference does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnadiff.ops.add_norm import add_norm_fn, norm_obstacles
from dnadiff.ops.backend import choose
from dnadiff.ops.causal_conv import causal_conv1d_fn, conv_obstacles
from dnadiff.ops.mixer import mamba_mixer_fn, mixer_obstacles
from dnadiff.ops.mixer_arguments import DirectionWeights
from dnadiff.ops.scan_arguments import ScanArguments
from dnadiff.ops.selective_scan import scan_obstacles, selective_scan_fn

TOLERANCE = 1e-4
"""Relative error up to which a backend is right: far above the rounding of float32, far below a mistake."""


@dataclass(frozen=True)
class Check:
    """How one backend of one kernel fares on one device.

    Attributes:
        kernel: name of the public function.
        device: as PyTorch writes it.
        backend: one of `dnadiff.ops.backend.BACKENDS`.
        automatic: whether "auto" takes this backend for float32.
        obstacle: why it cannot be used, or None.
        error: relative error against the reference in float64, the largest of all outputs and gradients; None if the
            backend was not run, or failed.
        failure: why there is no error although the backend was run, or None.
    """

    kernel: str
    device: str
    backend: str
    automatic: bool
    unsupported_reason: str | None = None
    error: float | None = None
    failure: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether the backend should be usable, but does not compute what it should."""
        return self.unsupported_reason is None and not (
            self.error is not None and self.error <= TOLERANCE
        )


def check_kernels(device: str) -> Iterator[Check]:
    """Runs every usable backend of every kernel on a device: forward and backward, in float32, on small inputs.

    Args:
        device: as PyTorch takes it, e.g. "cpu" or "cuda:0".

    Yields:
        A check for each kernel and backend, also for those that cannot be used.
    """
    for kernel in _KERNELS:
        generator = torch.Generator().manual_seed(0)
        inputs = {
            name: torch.randn(shape, generator=generator) for name, shape in kernel.shapes.items()
        }
        obstacles = kernel.obstacles(**{name: x.to(device) for name, x in inputs.items()})
        automatic = choose("auto", kernel.name, obstacles)
        for backend, unsupported_reason in obstacles.items():
            check = Check(kernel.name, device, backend, backend == automatic, unsupported_reason)
            yield check if unsupported_reason else _compared(check, kernel, inputs)


class _Kernel(NamedTuple):
    """A kernel and its inputs. `run` takes them, a backend, and which of two variants, and gives all outputs."""

    name: str
    run: Callable[[dict[str, Any], str, bool], tuple[Tensor, ...]]
    obstacles: Callable[..., dict[str, str | None]]
    shapes: dict[str, tuple[int, ...]]


def _scan(inputs: dict[str, Any], backend: str, reverse: bool) -> tuple[Tensor, ...]:
    inputs = inputs | {"A": -inputs["A"].exp()}
    options: dict[str, Any] = {"delta_softplus": True, "reverse": reverse, "backend": backend}
    with torch.no_grad():  # not every backend has the gradient of the last state
        _, last = selective_scan_fn(**inputs, **options, return_last_state=True)
    out: Any = selective_scan_fn(**inputs, **options)
    return out, last


def _conv(inputs: dict[str, Any], backend: str, reverse: bool) -> tuple[Tensor, ...]:
    return (causal_conv1d_fn(**inputs, activation="silu", reverse=reverse, backend=backend),)


def _norm(inputs: dict[str, Any], backend: str, rms: bool) -> tuple[Tensor, ...]:
    return add_norm_fn(**inputs, rms=rms, backend=backend)


def _directions(inputs: dict[str, Any], variant: bool) -> list[DirectionWeights]:
    """The direction that the inputs describe, both ways."""
    weights = {
        name: inputs[name]
        for name in ("conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "D")
    }
    weights["A"] = -inputs["A"].exp()
    return [DirectionWeights(**weights, reverse=reverse) for reverse in (variant, not variant)]


def _mixer(inputs: dict[str, Any], backend: str, variant: bool) -> tuple[Tensor, ...]:
    projections = inputs["in_weight"], None, inputs["out_weight"], None
    return (
        mamba_mixer_fn(inputs["x"], *projections, _directions(inputs, variant), backend=backend),
    )


def _mixer_obstacles(**inputs: Any) -> dict[str, str | None]:
    return mixer_obstacles(
        inputs["x"], inputs["in_weight"], inputs["out_weight"], _directions(inputs, False)
    )


_ROWS, _STATES = (2, 20, 37), (2, 5, 37)

_KERNELS = (
    _Kernel(
        "selective_scan_fn",
        _scan,
        lambda **inputs: scan_obstacles(ScanArguments(**inputs)),
        {
            "u": _ROWS,
            "delta": _ROWS,
            "A": (20, 5),
            "B": _STATES,
            "C": _STATES,
            "D": (20,),
            "z": _ROWS,
        }
        | {"delta_bias": (20,)},
    ),
    _Kernel(
        "causal_conv1d_fn", _conv, conv_obstacles, {"x": _ROWS, "weight": (20, 4), "bias": (20,)}
    ),
    _Kernel(
        "mamba_mixer_fn",
        _mixer,
        _mixer_obstacles,
        {
            "x": (2, 37, 6),
            "in_weight": (40, 6),
            "out_weight": (6, 20),
            "conv_weight": (20, 4),
            "conv_bias": (20,),
        }
        | {"x_proj": (12, 20), "dt_proj": (20, 2), "dt_bias": (20,), "A": (20, 5), "D": (20,)},
    ),
    _Kernel(
        "add_norm_fn",
        _norm,
        norm_obstacles,
        {"x": _ROWS, "residual": _ROWS, "weight": (37,), "bias": (37,)},
    ),
)


def _compared(check: Check, kernel: _Kernel, inputs: dict[str, Tensor]) -> Check:
    """The check of a backend that can be used."""
    errors = []
    try:
        for variant in (False, True):
            exact = _results(
                kernel, {name: x.double() for name, x in inputs.items()}, "reference", variant
            )
            given = {name: x.to(check.device) for name, x in inputs.items()}
            with torch.backends.cudnn.flags(
                enabled=False
            ):  # it may round to fewer digits than float32 has
                results = _results(kernel, given, check.backend, variant)
            errors += [_relative(x, y) for x, y in zip(results, exact, strict=True)]
    except Exception as failure:  # whatever a compiler or a driver may raise
        return replace(
            check, failure=f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
        )
    error = torch.stack(errors).max().item()
    return (
        replace(check, failure="a result is not a number")
        if math.isnan(error)
        else replace(check, error=error)
    )


def _results(
    kernel: _Kernel, inputs: dict[str, Tensor], backend: str, variant: bool
) -> list[Tensor]:
    """Outputs, and gradients of a weighted sum of them."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    outputs = kernel.run(leaves, backend, variant)
    weight = torch.linspace(-1, 2, outputs[0].numel()).view(outputs[0].shape).to(outputs[0])
    torch.stack([(out * weight).sum() for out in outputs if out.requires_grad]).sum().backward()
    gradients = [x.grad for x in leaves.values() if x.grad is not None]
    return [*(out.detach() for out in outputs), *gradients]


def _relative(x: Tensor, exact: Tensor) -> Tensor:
    """Norm of the difference over the norm of what it should be."""
    return torch.linalg.vector_norm(x.cpu().double() - exact) / torch.linalg.vector_norm(exact)
