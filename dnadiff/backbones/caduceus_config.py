"""The shape of a Caduceus, in the field names of the published config.json."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dnadiff.alphabet import DNA


@dataclass(frozen=True)
class SSMConfig:
    """The selective state-space mixer (Mamba, Gu and Dao 2023, arXiv 2312.00752).

    Attributes:
        d_state: N, size of the state of each channel.
        d_conv: positions of the causal convolution before the scan.
        expand: the mixer has this many times `d_model` channels.
        dt_rank: rank of the projection to step sizes; "auto" is d_model / 16, rounded up.
        dt_min: smallest step size at the start of training.
        dt_max: largest step size at the start of training.
        dt_init: how the step-size projection starts.
        dt_scale: factor on its starting values.
        dt_init_floor: lower limit of the starting step sizes.
        conv_bias: whether the convolution has a bias.
        bias: whether the input and output projections have a bias.
        use_fast_path: has no effect here; in the published code it selects a faster kernel.
    """

    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    dt_rank: int | Literal["auto"] = "auto"
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_init: Literal["random", "constant"] = "random"
    dt_scale: float = 1.0
    dt_init_floor: float = 1e-4
    conv_bias: bool = True
    bias: bool = False
    use_fast_path: bool = True


@dataclass(frozen=True)
class CaduceusConfig:
    """The shape of a Caduceus.

    Attributes:
        d_model: channels of each strand.
        n_layer: number of blocks.
        vocab_size: number of token ids.
        rcps: PS if true: both strands are read and the network is equivariant to reverse
            complementation. Ph if false: one strand.
        bidirectional: whether the sequence is read in both directions; Mamba reads in one.
        bidirectional_strategy: how the outputs of the two directions are combined.
        bidirectional_weight_tie: whether the directions share their input and output projections.
        ssm_cfg: the mixer.
        rms_norm: RMSNorm if true, LayerNorm if false.
        norm_epsilon: inside the root of each norm.
        fused_add_norm: in PS, true exchanges the strands at each block (see
            `dnadiff.backbones.caduceus`).
        residual_in_fp32: has no effect here, where the residual stream is always float32.
        pad_vocab_size_multiple: the embedding's rows are rounded up to a multiple of this.
        initializer_range: standard deviation of new embeddings.
    """

    # The size of the MDLM paper's Caduceus: 470,702 parameters.
    d_model: int = 118
    n_layer: int = 4
    vocab_size: int = 12
    rcps: bool = True
    bidirectional: bool = True
    bidirectional_strategy: Literal["add", "ew_multiply"] = "add"
    bidirectional_weight_tie: bool = True
    ssm_cfg: SSMConfig = field(default_factory=SSMConfig)
    rms_norm: bool = True
    norm_epsilon: float = 1e-5
    fused_add_norm: bool = True
    residual_in_fp32: bool = False
    pad_vocab_size_multiple: int = 8
    initializer_range: float = 0.02

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding."""
        multiple = self.pad_vocab_size_multiple
        return math.ceil(self.vocab_size / multiple) * multiple

    @property
    def d_inner(self) -> int:
        """Channels inside the mixer."""
        return self.ssm_cfg.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Rank of the projection to step sizes."""
        # Mamba's own rule for "auto".
        rank = self.ssm_cfg.dt_rank
        return math.ceil(self.d_model / 16) if rank == "auto" else rank

    @property
    def swaps(self) -> bool:
        """Whether each block exchanges the strands."""
        return self.rcps and self.fused_add_norm

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as plain numbers and text."""
        return asdict(self)


def complement_table(size: int) -> list[int]:
    """Returns the complement of each of `size` token ids.

    A token that is not a nucleotide is its own complement.
    """
    # Rows that only pad the embedding are never looked up, but the published table has them.
    return DNA.complement_ids + list(range(DNA.vocab_size, size))
