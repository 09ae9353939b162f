"""Chooses which backend runs a kernel."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor

BACKENDS = ("reference", "cpu", "triton", "mamba_ssm")


def choose(backend: str, function: str, unsupported: Mapping[str, str | None]) -> str:
    """Returns the backend to run: the one asked for, or for "auto" the first that can.

    Args:
        backend: "auto" or one of BACKENDS.
        function: name of the public function that was called, for the message.
        unsupported: for each backend that `function` has, in the order in which "auto" tries them,
            why it cannot take the given arguments, or None if it can.

    Raises:
        ValueError: if `backend` is unknown, does not exist for this function, or cannot take these
            arguments.
    """
    # "auto" takes the first usable one: callers list the fastest backend first.
    usable = [name for name, reason in unsupported.items() if reason is None]
    if backend == "auto" and usable:
        return usable[0]
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose from auto, {', '.join(BACKENDS)}")

    reason = unsupported.get(backend, "it is not available")
    if reason is None:
        return backend
    raise ValueError(
        f"{function} cannot run with backend {backend!r}: {reason}; "
        f"usable here: {', '.join(usable)}"
    )


def cpu_unsupported(*tensors: Tensor | None) -> str | None:
    """Returns why the compiled CPU kernels cannot take these tensors, or None if they can."""
    return _other_device("cpu", *tensors) or _has_float64(*tensors)


def triton_unsupported(*tensors: Tensor | None) -> str | None:
    """Returns why the Triton kernels cannot take these tensors, or None if they can.

    With TRITON_INTERPRET=1 in the environment, Triton runs kernels step by step in Python, on
    tensors of any device. That is for tests: on a CPU "auto" prefers the compiled kernels.
    """
    if not installed("triton"):
        return "triton is not installed (on Linux: pip install triton)"
    if _too_old("triton", (3, 3)):  # kernels before 3.3 do not take tuples
        return "triton is older than 3.3 (pip install --upgrade triton, or a newer torch)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return _has_float64(*tensors)
    return _other_device("cuda", *tensors) or _has_float64(*tensors)


def mamba_ssm_unsupported(package: str, *tensors: Tensor | None) -> str | None:
    """Returns why the kernels of mamba_ssm or causal_conv1d cannot take these tensors, or None."""
    if not installed(package):
        name = package.replace("_", "-")
        return (
            f"{package} is not installed (it compiles CUDA: "
            f"pip install --no-build-isolation {name})"
        )
    # The packages do not take empty tensors.
    if any(tensor is not None and tensor.numel() == 0 for tensor in tensors):
        return "a tensor is empty"
    return _other_device("cuda", *tensors) or _has_float64(*tensors)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Returns whether a tensor may get a gradient, so that a kernel keeps what that needs."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


@functools.cache
def installed(package: str) -> bool:
    """Returns whether a package can be found. It is not imported, which may take a while."""
    return find_spec(package) is not None


@functools.cache
def _too_old(package: str, least: tuple[int, int]) -> bool:
    """Returns whether an installed package is known to be older than a version."""
    try:
        major, minor = version(package).split(".")[:2]
    except PackageNotFoundError:  # nightly builds have another name
        return False
    return (int(major), int(minor)) < least


def _other_device(kind: str, *tensors: Tensor | None) -> str | None:
    """Returns a message about a tensor that is not on this kind of device, or None."""
    for tensor in tensors:
        if tensor is not None and tensor.device.type != kind:
            return f"it runs on {kind} and a tensor is on {tensor.device}"
    return None


def _has_float64(*tensors: Tensor | None) -> str | None:
    """Returns a message about a tensor in float64, or None."""
    if any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors):
        return "it computes in float32 and a tensor is float64"
    return None
