"""The default precision of training: bfloat16 where it is measured to be faster, else float32.

Which instructions a CPU has does not settle the matter. With AMX bfloat16 trains 1.6 times faster
than float32, with AVX512-BF16 alone 1.55 times, and without either its matrix products are emulated
and take three times as long. So the work of a training step is timed in both, once, and the outcome
is kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dnadiff.errors import InputError
from dnadiff.files import cache_folder, read_json, write_json
from dnadiff.ops.add_norm import add_norm_fn
from dnadiff.ops.mixer import mamba_mixer_fn
from dnadiff.ops.mixer_arguments import DirectionWeights

logger = logging.getLogger(__name__)

MIN_SPEEDUP = 1.15
"""How many times faster bfloat16 must be to be preferred: more than timing errors explain.

Below that float32 is preferred, because it is more accurate.
"""

_PAIRS = 7  # timed runs in each precision
_SECONDS = 2.0  # after which no further pair is timed, but for the first three
_NUMBERS = 2**20  # input numbers of the timed step: more than caches hold, as in training
_METHOD = 1  # increase when the measurement changes, so that outcomes of the old one are not used

_DTYPES = torch.float32, torch.bfloat16

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class PrecisionChoice:
    """The default precision on a device.

    Attributes:
        precision: "bf16-mixed" or "32-true", as Lightning names them.
        reason: why, in a few words.
        speedup: how many times faster bfloat16 was than float32, or None if nothing was timed.
    """

    precision: Precision
    reason: str
    speedup: float | None = None

    def __str__(self) -> str:
        return f"{self.precision} ({self.reason})"


def prefers_bf16(device: str, *, d_model: int = 118) -> bool:
    """Returns whether training takes bfloat16 by default; see `choose_precision`."""
    return choose_precision(device, d_model=d_model).precision == "bf16-mixed"


def choose_precision(device: str, *, d_model: int = 118) -> PrecisionChoice:
    """Chooses the precision of training on a device.

    GPUs take bfloat16 if they have instructions for it. On a CPU a small training pass is timed in
    both precisions, which takes a second or two. The outcome is kept in the cache folder for this
    CPU, version of PyTorch, number of threads and width, so that every later run chooses alike. If
    the cache folder cannot be written, every run measures for itself.

    Args:
        device: "cuda", "cpu", or another type of device as PyTorch names it.
        d_model: width of the network.
    """
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        reason = "this GPU computes in bfloat16" if native else "this GPU only emulates bfloat16"
        return PrecisionChoice("bf16-mixed" if native else "32-true", reason)
    if device != "cpu":
        return PrecisionChoice("32-true", f"bfloat16 is not tried on {device}")

    speedup = _known_speedup(d_model)
    if speedup >= MIN_SPEEDUP:
        return PrecisionChoice("bf16-mixed", f"{speedup:.2f} times faster than 32-true", speedup)
    reason = f"bf16-mixed measured {speedup:.2f} times as fast, {MIN_SPEEDUP} needed"
    return PrecisionChoice("32-true", reason, speedup)


def _known_speedup(d_model: int) -> float:
    """Returns the speedup from the cache folder, or measures and keeps it."""
    machine = _machine() | {"d_model": d_model}
    digest = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()
    try:
        path = cache_folder() / "precision" / f"{digest[:16]}.json"
    except RuntimeError:  # the user has no home folder, as in some containers
        return _measure_speedup(d_model)

    known = _read_speedup(path, machine)
    if known is not None:
        return known

    speedup = _measure_speedup(d_model)
    try:
        write_json(path, {"machine": machine, "speedup": speedup})
    except (OSError, InputError) as error:
        logger.debug("the measured precision is not kept: %s", error)
    return speedup


def _read_speedup(path: Path, machine: dict[str, object]) -> float | None:
    """Returns a kept speedup, or None if the file is missing, damaged, or of another machine."""
    try:
        kept = read_json(path)
    except InputError:
        return None
    if not isinstance(kept, dict) or kept.get("machine") != machine:
        return None
    speedup = kept.get("speedup")
    if not isinstance(speedup, float) or not math.isfinite(speedup) or speedup <= 0:
        return None
    return speedup


def _machine() -> dict[str, object]:
    """Returns everything that the speedup depends on, except for the network."""
    return {
        "method": _METHOD,
        "cpu": _cpu(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }


def _cpu() -> list[str]:
    """Returns the model and the instructions of the CPU, as far as the system names them."""
    names = ("model name", "flags", "Features")  # "Features" are the flags on ARM
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in names:
                found.setdefault(name.strip(), value.strip())  # of the first core
    except OSError:  # not Linux
        pass
    capability = torch.backends.cpu.get_cpu_capability()
    return [platform.machine(), platform.processor(), capability, *found.values()]


def _measure_speedup(d_model: int) -> float:
    """Measures how many times faster bfloat16 is than float32.

    Matrix products come first: they need no compiled kernels, and bfloat16 need not be tried
    where even they are not faster. Then the norm and the mixer of a layer are timed, forward and
    backward. Their kernels are compiled for both precisions, once; validation needs the float32
    ones anyway.
    """
    products = _paired_speedup(_matrix_products(d_model))
    if products < MIN_SPEEDUP:
        return products
    return _paired_speedup(_layer_pass(d_model))


def _paired_speedup(run: Callable[[torch.dtype], object]) -> float:
    """Returns the time of `run` in float32 over its time in bfloat16.

    The two take turns, so that a change in the machine's load affects both. The result is the lower
    one of two estimates, the ratio of the fastest runs and the median ratio of neighbouring runs: a
    single lucky run must not decide for bfloat16.
    """
    for dtype in _DTYPES:
        run(dtype)  # compiles kernels, and has the system provide memory

    single: list[float] = []
    half: list[float] = []
    while len(single) < _PAIRS and (len(single) < 3 or sum(single + half) < _SECONDS):
        single.append(_seconds(run, torch.float32))
        half.append(_seconds(run, torch.bfloat16))

    fastest = min(single) / min(half)
    ratios = [x / y for x, y in zip(single, half, strict=True)]
    return min(fastest, statistics.median(ratios))


def _seconds(run: Callable[[torch.dtype], object], dtype: torch.dtype) -> float:
    """Returns how long one run takes."""
    start = time.perf_counter()
    run(dtype)
    return time.perf_counter() - start


def _matrix_products(d_model: int) -> Callable[[torch.dtype], object]:
    """Returns the three matrix products of a mixer's first projection, forward and backward."""
    positions = max(256, _NUMBERS // d_model // 4)
    x = torch.ones(positions, d_model)
    weight = torch.ones(4 * d_model, d_model)
    gradient = torch.ones(positions, 4 * d_model)
    tensors = {dtype: [t.to(dtype) for t in (x, weight, gradient)] for dtype in _DTYPES}

    def run(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, weight, gradient = tensors[dtype]
        return x @ weight.mT, gradient @ weight, gradient.mT @ x

    return run


def _layer_pass(d_model: int) -> Callable[[torch.dtype], object]:
    """Returns a training pass through the norm and the bidirectional mixer of one layer."""
    length = 1024
    batch = max(1, _NUMBERS // d_model // length)
    # A generator of its own: the measurement must not change the random numbers of a run.
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        scale = shape[-1] ** -0.5
        return (scale * torch.randn(shape, generator=generator)).requires_grad_()

    channels, states, rank = 2 * d_model, 16, -(-d_model // 16)  # as in Mamba
    x, residual, norm = leaf(batch, length, d_model), leaf(batch, length, d_model), leaf(d_model)
    in_weight, out_weight = leaf(2 * channels, d_model), leaf(d_model, channels)
    shared = {
        "conv_weight": leaf(channels, 4),
        "conv_bias": leaf(channels),
        "x_proj": leaf(rank + 2 * states, channels),
        "dt_proj": leaf(channels, rank),
        "dt_bias": leaf(channels),
        "A": -torch.rand(channels, states, generator=generator).requires_grad_(),
        "D": leaf(channels),
    }
    directions = [DirectionWeights(**shared, reverse=reverse) for reverse in (False, True)]

    def run(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            normed, total = add_norm_fn(x.to(dtype), residual, norm)
            mixed = mamba_mixer_fn(normed, in_weight, None, out_weight, None, directions)
            loss = mixed.float().sum() + total.sum()
        loss.backward()

    return run
