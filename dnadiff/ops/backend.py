"""Which backend runs a kernel."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor

BACKENDS = ("reference", "cpu", "triton", "mamba_ssm")


def choose(backend: str, function: str, obstacles: Mapping[str, str | None]) -> str:
    """The backend to run: the one that was asked for, or with "auto" the first that can.

    Args:
        backend: "auto" or one of BACKENDS.
        function: the public function that asks, for the message.
        obstacles: for each backend that `function` has, in the order in which "auto" tries them, what keeps it from
            taking the given arguments, or None.

    Raises:
        ValueError: if `backend` is unknown, is not there for this function, or cannot take these arguments.
    """
    usable = [name for name, unsupported_reason in obstacles.items() if unsupported_reason is None]
    if backend == "auto" and usable:
        return usable[0]
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose from auto, {', '.join(BACKENDS)}")
    reason = obstacles.get(backend, "it is not available")
    if reason is None:
        return backend
    raise ValueError(
        f"{function} cannot run with backend {backend!r}: {reason}; usable here: {', '.join(usable)}"
    )


def cpu_obstacle(*tensors: Tensor | None) -> str | None:
    """What keeps the compiled CPU kernels from taking these tensors, or None."""
    return _device_obstacle("cpu", *tensors) or _float64_obstacle(*tensors)


def triton_obstacle(*tensors: Tensor | None) -> str | None:
    """What keeps the Triton kernels from taking these tensors, or None.

    With TRITON_INTERPRET=1 in the environment, Triton runs kernels step by step in Python, on tensors of any device.
    "auto" does not choose that on a CPU, for the compiled kernels take the same arguments and are tried before.
    """
    if not installed("triton"):
        return "triton is not installed (on Linux: pip install triton)"
    if _too_old("triton", (3, 3)):  # kernels before 3.3 do not take tuples
        return "triton is older than 3.3 (pip install --upgrade triton, or a newer torch)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return _float64_obstacle(*tensors)
    return _device_obstacle("cuda", *tensors) or _float64_obstacle(*tensors)


def mamba_ssm_obstacle(package: str, *tensors: Tensor | None) -> str | None:
    """What keeps the kernels of mamba_ssm, or of causal_conv1d beside it, from taking these tensors, or None."""
    if not installed(package):
        return f"{package} is not installed (pip install {package.replace('_', '-')}; it compiles CUDA)"
    if any(tensor is not None and tensor.numel() == 0 for tensor in tensors):
        return "a tensor is empty"
    return _device_obstacle("cuda", *tensors) or _float64_obstacle(*tensors)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a backward pass may come to any of these tensors, so that what it needs must be kept."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


@functools.cache
def installed(package: str) -> bool:
    """Whether a package could be imported. It is not: that may take a while."""
    return find_spec(package) is not None


@functools.cache
def _too_old(package: str, least: tuple[int, int]) -> bool:
    """Whether an installed package is known to be older than this."""
    try:
        major, minor = version(package).split(".")[:2]
    except PackageNotFoundError:  # nightly builds go by another name
        return False
    return (int(major), int(minor)) < least


def _device_obstacle(kind: str, *tensors: Tensor | None) -> str | None:
    for tensor in tensors:
        if tensor is not None and tensor.device.type != kind:
            return f"it runs on {kind} and a tensor is on {tensor.device}"
    return None


def _float64_obstacle(*tensors: Tensor | None) -> str | None:
    if any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors):
        return "it computes in float32 and a tensor is float64"
    return None
