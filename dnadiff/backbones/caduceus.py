"""Caduceus: a bidirectional Mamba that can treat both strands of DNA alike (Schiff et al. 2024, arXiv 2403.03234).

Two variants. *Ph* is a plain bidirectional stack. *PS* runs the same stack on a sequence and on its reverse complement
and is equivariant: reverse-complementing the input reverse-complements the output.

Strands. The published code keeps both strands of PS in one tensor of 2 d channels, the second strand flipped in length
and channels. Here the strands are two rows of the batch, each read in its own direction, so no activation is flipped.

The swap. With ``fused_add_norm`` the published PS blocks feed each branch the *other* strand's half, flipped. Write
J for the flip of length and channels: forward' = F(J reverse), reverse' = F(J forward). Since J F J is F with its two
directions exchanged and its weights' channel axes reversed, the rows can stay where they are if every other block is
applied in this *mirrored* form (`Block.forward`), and an odd depth ends with one real flip. Without ``fused_add_norm``
nothing is swapped. Both are exactly equivariant, and they compute different functions of the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA
from dnadiff.backbones.language_model import LanguageModel, Norm, complement_weights, embed
from dnadiff.ops import DirectionWeights, MixerState, mamba_mixer_fn, mamba_mixer_step


@dataclass(frozen=True)
class SSMConfig:
    """The state-space mixer, in the published field names (Mamba, Gu and Dao 2023)."""

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
    """The shape of a Caduceus, in the published field names.

    Attributes:
        d_model: channels of each strand.
        n_layer: number of blocks.
        vocab_size: token ids; the embedding is padded to a multiple of `pad_vocab_size_multiple`.
        rcps: PS (both strands, equivariant) if true, Ph if false.
        bidirectional_strategy: how the two directions' outputs are combined.
        bidirectional_weight_tie: the two directions share their input and output projections.
        fused_add_norm: for PS, true swaps the strands at each block (see the module's docstring).
    """

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
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple

    @property
    def d_inner(self) -> int:
        """Channels inside the mixer."""
        return self.ssm_cfg.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Rank of the step size's projection."""
        rank = self.ssm_cfg.dt_rank
        return math.ceil(self.d_model / 16) if rank == "auto" else rank

    @property
    def swaps(self) -> bool:
        """Whether each block exchanges the strands."""
        return self.rcps and self.fused_add_norm

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and text."""
        return asdict(self)


class Direction(nn.Module):
    """One direction of the mixer: convolution, input-dependent parameters, selective scan. Parameters as in Mamba."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        ssm, d, rank = config.ssm_cfg, config.d_inner, config.dt_rank
        self.d_state, self.dt_rank = ssm.d_state, rank
        self.in_proj = nn.Linear(config.d_model, 2 * d, bias=ssm.bias)
        self.conv1d = nn.Conv1d(
            d, d, ssm.d_conv, groups=d, padding=ssm.d_conv - 1, bias=ssm.conv_bias
        )
        self.x_proj = nn.Linear(d, rank + 2 * ssm.d_state, bias=False)
        self.dt_proj = nn.Linear(rank, d)
        self.A_log = nn.Parameter(torch.arange(1.0, ssm.d_state + 1).log().repeat(d, 1))
        self.D = nn.Parameter(torch.ones(d))
        self.out_proj = nn.Linear(d, config.d_model, bias=ssm.bias)
        self._init_step_size(ssm)

    @torch.no_grad()
    def _init_step_size(self, ssm: SSMConfig) -> None:
        """Steps log-uniform between dt_min and dt_max at the start: dt_proj.bias is their inverse softplus."""
        std = self.dt_rank**-0.5 * ssm.dt_scale
        if ssm.dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, std)
        else:
            nn.init.uniform_(self.dt_proj.weight, -std, std)
        low, high = math.log(ssm.dt_min), math.log(ssm.dt_max)
        dt = torch.exp(torch.rand_like(self.D) * (high - low) + low).clamp(min=ssm.dt_init_floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def weights(self, *, reverse: bool) -> DirectionWeights:
        """For `dnadiff.ops.mamba_mixer_fn`, right to left if `reverse`."""
        return DirectionWeights(
            self.conv1d.weight[:, 0],
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.dt_proj.bias,
            -torch.exp(self.A_log.float()),
            self.D.float(),
            reverse,
        )


class BiMamba(nn.Module):
    """Two directions, combined; tied directions share one input and one output projection, which run once."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.strategy, self.tied = config.bidirectional_strategy, config.bidirectional_weight_tie
        self.mamba_fwd = Direction(config)
        self.mamba_rev = Direction(config) if config.bidirectional else None
        if self.mamba_rev is not None and self.tied:
            self.mamba_rev.in_proj, self.mamba_rev.out_proj = (
                self.mamba_fwd.in_proj,
                self.mamba_fwd.out_proj,
            )

    def forward(self, x: Tensor, *, mirrored: bool = False) -> Tensor:
        """Mixes (B, L, d_model) along L; `mirrored`: with x and the result flipped in length and channels."""
        fwd, rev = self.mamba_fwd, self.mamba_rev
        forward = fwd.weights(reverse=mirrored)
        if rev is None:
            return _mix(fwd, x, [forward], mirrored)
        backward = rev.weights(reverse=not mirrored)
        if self.tied and self.strategy == "add" and fwd.out_proj.bias is None:
            return _mix(fwd, x, [forward, backward], mirrored)
        out, out_rev = _mix(fwd, x, [forward], mirrored), _mix(rev, x, [backward], mirrored)
        return out + out_rev if self.strategy == "add" else out * out_rev

    def begin(self, batch: int) -> MixerState:
        """The state before the first position of `batch` sequences."""
        return MixerState.empty(batch, self.mamba_fwd.weights(reverse=False))

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """`forward` of one position (B, d_model), left to right."""
        fwd = self.mamba_fwd
        inwards, outwards = fwd.in_proj, fwd.out_proj
        weights = fwd.weights(reverse=False)
        return mamba_mixer_step(
            x, state, inwards.weight, inwards.bias, outwards.weight, outwards.bias, weights
        )


def _mix(
    projections: Direction, x: Tensor, directions: list[DirectionWeights], mirrored: bool
) -> Tensor:
    """The directions between the projections; flipped channels are channels of the weights in reverse order."""
    inwards, outwards = projections.in_proj, projections.out_proj
    in_weight = inwards.weight.flip(1) if mirrored else inwards.weight
    out_weight = outwards.weight.flip(0) if mirrored else outwards.weight
    out_bias = outwards.bias.flip(0) if mirrored and outwards.bias is not None else outwards.bias
    return mamba_mixer_fn(x, in_weight, inwards.bias, out_weight, out_bias, directions)


def _norm(config: CaduceusConfig) -> Norm:
    return Norm(config.d_model, config.norm_epsilon, rms=config.rms_norm)


class Block(nn.Module):
    """Add, norm, mix."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.norm = _norm(config)
        self.mixer = BiMamba(config)

    def forward(
        self, x: Tensor, residual: Tensor | None, modulation: Tensor | None, *, mirrored: bool
    ) -> tuple[Tensor, Tensor]:
        """The mixer's output and the residual stream, both (B, L, d_model)."""
        normed, residual = self.norm(x, residual, modulation, mirrored=mirrored)
        return self.mixer(normed, mirrored=mirrored), residual

    def step(
        self, x: Tensor, residual: Tensor | None, modulation: Tensor | None, state: MixerState
    ) -> tuple[Tensor, Tensor, MixerState]:
        """`forward` of one position, (B, 1, d_model), behind those that `state` remembers."""
        normed, residual = self.norm(x, residual, modulation)
        out, state = self.mixer.step(normed[:, 0], state)
        return out[:, None], residual, state


class CaduceusMixer(nn.Module):
    """Embedding, blocks and final norm: token ids (B, L) to hidden states."""

    complement: Tensor

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.ModuleDict(
            {"word_embeddings": nn.Embedding(config.padded_vocab, config.d_model)}
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = _norm(config)
        self.register_buffer(
            "complement", torch.tensor(complement_table(config.padded_vocab)), persistent=False
        )

    @property
    def embedding(self) -> Tensor:
        """The embedding matrix (padded_vocab, d_model)."""
        return cast(nn.Embedding, self.embeddings["word_embeddings"]).weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Hidden states (B, L, d_model) of Ph; of PS (B, L, 2 d_model), the second strand flipped as published."""
        states = self.strands(input_ids)
        if not self.config.rcps:
            return states
        forward, reverse = states.chunk(2)
        return torch.cat([forward, reverse.flip(-2, -1)], -1)

    def strands(
        self,
        input_ids: Tensor,
        token_probs: Tensor | None = None,
        modulation: Tensor | None = None,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of each strand read in its own direction: (B, L, d) of Ph, (2 B, L, d) of PS.

        Args:
            input_ids: (B, L) token ids.
            token_probs: (B, L, K) weights on the letters' embeddings, which replace the embedding of each letter or mask.
            modulation: (n_layer + 1, 2, B, d) of each norm, the same for both strands; see `Conditioning`.
            self_cond: (K, d) embeddings that the second half of `token_probs`, then (B, L, 2 K), weighs.
        """
        x = self._embed(input_ids, token_probs, self_cond)
        each: Sequence[Tensor | None] = [None] * (len(self.layers) + 1)
        if modulation is not None:
            each = list(modulation.repeat(1, 1, 2, 1) if self.config.rcps else modulation)
        residual = None
        for i, layer in enumerate(self.layers):
            x, residual = layer(x, residual, each[i], mirrored=self.config.swaps and i % 2 == 0)
        if self.config.swaps and len(self.layers) % 2 == 1:
            x, residual = _exchange(x), None if residual is None else _exchange(residual)
        return self.norm_f(x, residual, each[-1])[0]

    def _embed(self, ids: Tensor, token_probs: Tensor | None, self_cond: Tensor | None) -> Tensor:
        x = embed(ids, token_probs, self.embedding, self_cond)
        if not self.config.rcps:
            return x
        opposite = None if token_probs is None else complement_weights(token_probs).flip(1)
        return torch.cat(
            [x, embed(self.complement[ids].flip(-1), opposite, self.embedding, self_cond)]
        )

    def begin(self, batch: int) -> list[MixerState]:
        """Each block's state before the first position of `batch` sequences; of Mamba only."""
        return [block.mixer.begin(batch) for block in self._blocks]

    def step(
        self, ids: Tensor, state: list[MixerState], modulation: Tensor | None = None
    ) -> tuple[Tensor, list[MixerState]]:
        """`strands` of the next position alone: hidden states (B, d_model) of token ids (B,), and the new state."""
        x, residual, after = embed(ids[:, None], None, self.embedding), None, []
        each = [None] * (len(self.layers) + 1) if modulation is None else list(modulation)
        for block, told, before in zip(self._blocks, each, state, strict=False):
            x, residual, new = block.step(x, residual, told, before)
            after.append(new)
        return self.norm_f(x, residual, each[-1])[0][:, 0], after

    @property
    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.layers))


def _exchange(x: Tensor) -> Tensor:
    """Exchanges the two strands (2 B, L, d), each flipped in length and channels."""
    forward, reverse = x.flip(-2, -1).chunk(2)
    return torch.cat([reverse, forward])


def complement_table(size: int) -> list[int]:
    """The id of the complement of each of `size` token ids; A and T, C and G, everything else itself."""
    return DNA.complement_ids + list(range(DNA.vocab_size, size))


class CaduceusLM(LanguageModel):
    """Caduceus with its language-model head, which is tied to the embedding.

    With one direction and one strand it is Mamba, which is causal and recurrent.
    """

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = CaduceusMixer(config)
        self.recurrent = self.causal
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """As published: embeddings N(0, 0.02), output projections shrunk by the number of residual additions."""
        nn.init.normal_(self.backbone.embedding, std=self.config.initializer_range)
        for module in (
            m for name, m in self.named_modules() if name.endswith("out_proj")
        ):  # each once, tied or not
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            module.weight /= math.sqrt(self.config.n_layer)
        for name, bias in self.named_parameters():
            if name.endswith(("in_proj.bias", "out_proj.bias")):
                nn.init.zeros_(bias)

    @property
    def causal(self) -> bool:
        """Whether a hidden state depends on tokens up to its own only: one direction, one strand; that is Mamba."""
        return not (self.config.bidirectional or self.config.rcps)

    @property
    def norms(self) -> int:
        """How many norms a condition may modulate."""
        return self.config.n_layer + 1

    @property
    def strands(self) -> int:
        """2 for PS, else 1."""
        return 2 if self.config.rcps else 1

    def states(
        self,
        tokens: Tensor,
        token_probs: Tensor | None = None,
        modulation: Tensor | None = None,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, L, d) of Ph, (2 B, L, d) of PS; see `CaduceusMixer.strands`."""
        return self.backbone.strands(tokens, token_probs, modulation, self_cond)

    def logits(self, states: Tensor, ids: Sequence[int]) -> Tensor:
        """Logits over `ids`; PS adds what the opposite strand says of the complements."""
        if not self.config.rcps:
            return super().logits(states, ids)
        forward, reverse = states.chunk(2)
        table = complement_table(self.config.padded_vocab)
        opposite = super().logits(reverse, [table[i] for i in ids])
        return super().logits(forward, ids) + opposite.flip(1)

    def begin(self, batch: int) -> list[MixerState]:
        """Of Mamba: each block's state before the first token of `batch` sequences; see `LanguageModel.begin`."""
        return self.backbone.begin(batch) if self.recurrent else super().begin(batch)

    def step(
        self,
        tokens: Tensor,
        state: list[MixerState],
        modulation: Tensor | None = None,
        ids: Sequence[int] = DNA.ids,
    ) -> tuple[Tensor, list[MixerState]]:
        """See `LanguageModel.step`."""
        states, state = self.backbone.step(tokens, state, modulation)
        return self.logits(states, ids), state
