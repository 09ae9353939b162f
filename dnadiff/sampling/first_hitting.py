"""First-hitting sampling of masked diffusion (Zheng et al. 2024, arXiv 2409.02908): exact in time."""

from __future__ import annotations

from torch import Tensor

from dnadiff.sampling.reveal import Plan


def first_hitting(times: Tensor) -> Plan:
    """One call for each hidden letter, in the order of their times: no grid, and no two letters from one call.

    With the exact denoiser the samples have exactly its distribution.

    Args:
        times: (B, L), when each hidden letter is due; see `unmask_times`.
    """
    order = times.argsort(dim=1, descending=True)
    return Plan(order.argsort(dim=1), times.gather(1, order))
