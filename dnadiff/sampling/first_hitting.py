"""First-hitting sampling of masked diffusion (Zheng et al. 2024, arXiv 2409.02908): exact in time."""

from __future__ import annotations

from torch import Tensor

from dnadiff.sampling.reveal import Plan, reveal, unmask_times
from dnadiff.sampling.state import SamplingState


def first_hitting(state: SamplingState) -> Tensor:
    """One call for each free letter: no grid, and no two letters from one call. Returns tokens (B, L).

    With the exact denoiser the samples have exactly its distribution.

    Args:
        request: what to draw.
    """
    return reveal(state, one_by_one(unmask_times(state)))


def one_by_one(times: Tensor) -> Plan:
    """Each letter is a group of its own, in the order of their times.

    Args:
        times: (B, L), when each hidden letter is due; see `unmask_times`.
    """
    order = times.argsort(dim=1, descending=True)
    return Plan(order.argsort(dim=1), times.gather(1, order))
