"""Which backend runs a kernel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BACKENDS = ("reference", "cpu", "triton", "mamba_ssm")


def choose(backend: str, function: str, obstacles: Mapping[str, str | None]) -> str:
    """The backend to run: the one that was asked for, or with "auto" the first that can.

    Args:
        backend: "auto" or one of BACKENDS.
        function: the public function that asks, for the message.
        obstacles: for each backend that `function` has, fastest first, what keeps it from taking the given
            arguments, or None.

    Raises:
        ValueError: if `backend` is unknown, is not there for this function, or cannot take these arguments.
    """
    usable = [name for name, obstacle in obstacles.items() if obstacle is None]
    if backend == "auto" and usable:
        return usable[0]
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown; choose from auto, {', '.join(BACKENDS)}")
    reason = obstacles.get(backend, "it is not available")
    if reason is None:
        return backend
    raise ValueError(f"{function} cannot run with backend {backend!r}: {reason}; usable here: {', '.join(usable)}")


def cpu_obstacle(*tensors: Tensor | None) -> str | None:
    """What keeps the compiled CPU kernels from taking these tensors, or None."""
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cpu":
            return f"a tensor is on {tensor.device}"
        if tensor is not None and tensor.dtype == torch.float64:
            return "it computes in float32 and a tensor is float64"
    return None
