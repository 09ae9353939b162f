"""Self-checks: compares every backend of every kernel on a device with the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnadiff.ops.add_norm import add_norm_fn, norm_unsupported
from dnadiff.ops.backend import choose
from dnadiff.ops.causal_conv import causal_conv1d_fn, conv_unsupported
from dnadiff.ops.mixer import mamba_mixer_fn, mixer_unsupported
from dnadiff.ops.mixer_arguments import DirectionWeights
from dnadiff.ops.scan_arguments import ScanArguments
from dnadiff.ops.selective_scan import scan_unsupported, selective_scan_fn

TOLERANCE = 1e-4
"""Largest relative error of a right backend: far above float32 rounding, far below a mistake."""


@dataclass(frozen=True)
class Check:
    """The result of one backend of one kernel on one device.

    Attributes:
        kernel: name of the public function.
        device: as PyTorch writes it.
        backend: one of `dnadiff.ops.backend.BACKENDS`.
        automatic: whether "auto" takes this backend for float32.
        unsupported_reason: why the backend cannot be used here, or None if it can.
        error: the largest relative error of all outputs and gradients, against the reference in
            float64; None if the backend was not run, or failed.
        failure: why `error` is missing although the backend was run, or None.
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
        """Whether the backend can be used, but computes something wrong."""
        right = self.error is not None and self.error <= TOLERANCE
        return self.unsupported_reason is None and not right


def check_kernels(device: str) -> Iterator[Check]:
    """Runs every usable backend of every kernel on small inputs, forward and backward, in float32.

    Args:
        device: as PyTorch takes it, e.g. "cpu" or "cuda:0".

    Yields:
        A check for each kernel and backend, also for those that cannot be used.
    """
    for kernel in _KERNELS:
        generator = torch.Generator().manual_seed(0)
        inputs: dict[str, Tensor] = {}
        for name, shape in kernel.shapes.items():
            inputs[name] = torch.randn(shape, generator=generator)

        unsupported = kernel.unsupported(**_on(device, inputs))
        automatic = choose("auto", kernel.name, unsupported)
        for backend, reason in unsupported.items():
            check = Check(kernel.name, device, backend, backend == automatic, reason)
            yield check if reason else _compared(check, kernel, inputs)


class _Kernel(NamedTuple):
    """A kernel and the shapes of its inputs.

    `run` takes the inputs, a backend, and a switch between two variants (e.g. `reverse`), and
    returns all outputs. `unsupported` takes the inputs.
    """

    name: str
    run: Callable[[dict[str, Any], str, bool], tuple[Tensor, ...]]
    unsupported: Callable[..., dict[str, str | None]]
    shapes: dict[str, tuple[int, ...]]


def _scan(inputs: dict[str, Any], backend: str, reverse: bool) -> tuple[Tensor, ...]:
    """Runs the scan; its last state is computed apart."""
    inputs = inputs | {"A": -inputs["A"].exp()}
    options: dict[str, Any] = {"delta_softplus": True, "reverse": reverse, "backend": backend}
    # Not every backend has a gradient of the last state.
    with torch.no_grad():
        _, last = selective_scan_fn(**inputs, **options, return_last_state=True)
    out: Any = selective_scan_fn(**inputs, **options)
    return out, last


def _conv(inputs: dict[str, Any], backend: str, reverse: bool) -> tuple[Tensor, ...]:
    """Runs the convolution."""
    return (causal_conv1d_fn(**inputs, activation="silu", reverse=reverse, backend=backend),)


def _norm(inputs: dict[str, Any], backend: str, rms: bool) -> tuple[Tensor, ...]:
    """Runs the addition and the norm."""
    return add_norm_fn(**inputs, rms=rms, backend=backend)


def _directions(inputs: dict[str, Any], variant: bool) -> list[DirectionWeights]:
    """Returns two directions with the weights among the inputs, one from each end."""
    names = "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "D"
    weights = {name: inputs[name] for name in names}
    weights["A"] = -inputs["A"].exp()
    return [DirectionWeights(**weights, reverse=reverse) for reverse in (variant, not variant)]


def _mixer(inputs: dict[str, Any], backend: str, variant: bool) -> tuple[Tensor, ...]:
    """Runs the mixer."""
    projections = inputs["in_weight"], None, inputs["out_weight"], None
    directions = _directions(inputs, variant)
    return (mamba_mixer_fn(inputs["x"], *projections, directions, backend=backend),)


def _scan_unsupported(**inputs: Any) -> dict[str, str | None]:
    """Calls `scan_unsupported` with the inputs."""
    return scan_unsupported(ScanArguments(**inputs))


def _mixer_unsupported(**inputs: Any) -> dict[str, str | None]:
    """Calls `mixer_unsupported` with the inputs."""
    return mixer_unsupported(
        inputs["x"], inputs["in_weight"], inputs["out_weight"], _directions(inputs, False)
    )


# Odd sizes, so that the last vector, quad, chunk and tile of every backend is a partial one.
_ROWS, _STATES = (2, 20, 37), (2, 5, 37)

_KERNELS = (
    _Kernel(
        "selective_scan_fn",
        _scan,
        _scan_unsupported,
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
        "causal_conv1d_fn", _conv, conv_unsupported, {"x": _ROWS, "weight": (20, 4), "bias": (20,)}
    ),
    _Kernel(
        "mamba_mixer_fn",
        _mixer,
        _mixer_unsupported,
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
        norm_unsupported,
        {"x": _ROWS, "residual": _ROWS, "weight": (37,), "bias": (37,)},
    ),
)


def _compared(check: Check, kernel: _Kernel, inputs: dict[str, Tensor]) -> Check:
    """Runs a backend that can be used, and returns its check with the error or the failure."""
    doubles = {name: x.double() for name, x in inputs.items()}
    errors = []
    try:
        for variant in (False, True):
            exact = _results(kernel, doubles, "reference", variant)
            # cuDNN may round to fewer digits than float32 has (TF32).
            with torch.backends.cudnn.flags(enabled=False):
                results = _results(kernel, _on(check.device, inputs), check.backend, variant)
            errors += [_relative(x, y) for x, y in zip(results, exact, strict=True)]
    except Exception as failure:  # a compiler or a driver may raise anything
        text = " ".join(str(failure).split())[:200]
        return replace(check, failure=f"{type(failure).__name__}: {text}")

    error = torch.stack(errors).max().item()
    if math.isnan(error):
        return replace(check, failure="a result is not a number")
    return replace(check, error=error)


def _on(device: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the inputs on a device."""
    return {name: x.to(device) for name, x in inputs.items()}


def _results(
    kernel: _Kernel, inputs: dict[str, Tensor], backend: str, variant: bool
) -> list[Tensor]:
    """Returns all outputs, and the gradients of a weighted sum of them."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    outputs = kernel.run(leaves, backend, variant)
    weight = torch.linspace(-1, 2, outputs[0].numel()).view(outputs[0].shape).to(outputs[0])
    sums = [(out * weight).sum() for out in outputs if out.requires_grad]
    torch.stack(sums).sum().backward()
    gradients = [x.grad for x in leaves.values() if x.grad is not None]
    return [*(out.detach() for out in outputs), *gradients]


def _relative(x: Tensor, exact: Tensor) -> Tensor:
    """Returns the norm of the difference over the norm of the exact value."""
    return torch.linalg.vector_norm(x.cpu().double() - exact) / torch.linalg.vector_norm(exact)
