"""First-hitting sampling of masked diffusion (Zheng et al. 2024, arXiv 2409.02908)."""

from __future__ import annotations

from torch import Tensor

from dnadiff.sampling.reveal import Plan, reveal, unmask_times
from dnadiff.sampling.sampler_config import SamplerConfig
from dnadiff.sampling.state import SamplingState


def first_hitting(state: SamplingState, config: SamplerConfig) -> Tensor:
    """Draws one base from each network call, without a grid of times. Returns tokens (B, L).

    With the exact denoiser the samples have exactly its distribution. One step is `reveal_step`,
    with the plan `one_by_one(unmask_times(state))`.

    Args:
        state: what to draw.
        config: has no setting for this sampler.
    """
    return reveal(state, one_by_one(unmask_times(state)))


def one_by_one(times: Tensor) -> Plan:
    """Makes each letter a group of its own, in the order of their times.

    Args:
        times: (B, L), when each masked position is drawn; see `unmask_times`.
    """
    order = times.argsort(dim=1, descending=True)
    # The inverse of the order is the rank of each position.
    return Plan(order.argsort(dim=1), times.gather(1, order))
