"""Caduceus: a bidirectional Mamba that can treat both strands of DNA alike (Schiff et al. 2024).

Paper: arXiv 2403.03234. There are two variants. *Ph* is a plain bidirectional stack. *PS* runs the
same stack on a sequence and on its reverse complement and is equivariant: reverse-complementing the
input reverse-complements the output.

Strands. The published code keeps both strands of PS in one tensor of 2 d channels, the second
strand flipped in length and channels. Here the strands are two rows of the batch, each read in its
own direction, so no activation is ever flipped.

The swap. With ``fused_add_norm`` each branch of a published PS block reads the *other* strand's
half, flipped. Write J for the flip of length and channels, and F for the block: then forward' =
F(J reverse) and reverse' = F(J forward). J F J equals F with its two directions exchanged and the
channel axes of its weights reversed. So the rows can stay where they are if every other block is
applied in this *mirrored* form (`Block.forward`), and a network with an odd number of blocks ends
with one real flip. Without ``fused_add_norm`` nothing is swapped. Both forms are exactly
equivariant, and they compute different functions of the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dnadiff.alphabet import DNA
from dnadiff.backbones.caduceus_config import CaduceusConfig, SSMConfig, complement_table
from dnadiff.backbones.checkpoint import stored
from dnadiff.backbones.language_model import LanguageModel, Norm
from dnadiff.backbones.network_input import NetworkInput, embed
from dnadiff.backbones.published_format import complement_maps, published_config, published_keys
from dnadiff.ops import DirectionWeights, MixerState, mamba_mixer_fn, mamba_mixer_step


class Direction(nn.Module):
    """One direction of the mixer: convolution, input-dependent parameters, selective scan.

    Its parameters have the names and shapes of a Mamba block.
    """

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
        # A = -(1, 2, ..., N) for every channel: the S4D-Real initialisation. The parameter is
        # log(-A), so that A stays negative, and the recurrence stable, in training.
        self.A_log = nn.Parameter(torch.arange(1.0, ssm.d_state + 1).log().repeat(d, 1))
        self.D = nn.Parameter(torch.ones(d))
        self.out_proj = nn.Linear(d, config.d_model, bias=ssm.bias)
        self._init_step_size(ssm)

    @torch.no_grad()
    def _init_step_size(self, ssm: SSMConfig) -> None:
        """Starts step sizes log-uniform between dt_min and dt_max, as Mamba does."""
        # This scale keeps the variance of the step sizes independent of the rank.
        std = self.dt_rank**-0.5 * ssm.dt_scale
        if ssm.dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, std)
        else:
            nn.init.uniform_(self.dt_proj.weight, -std, std)

        low, high = math.log(ssm.dt_min), math.log(ssm.dt_max)
        dt = torch.exp(torch.rand_like(self.D) * (high - low) + low).clamp(min=ssm.dt_init_floor)
        # The step size is softplus(bias + ...), so the bias is the inverse softplus,
        # log(exp(dt) - 1), written so that it does not cancel for small dt.
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def weights(self, *, reverse: bool) -> DirectionWeights:
        """Returns the arguments of `dnadiff.ops.mamba_mixer_fn`; right to left if `reverse`."""
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
    """Combines a mixer that reads left to right with one that reads right to left.

    Tied directions share their input and output projections. With the strategy "add" and no output
    bias, the output projection of the sum is the sum of the projections, so it runs once for both.
    """

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.strategy, self.tied = config.bidirectional_strategy, config.bidirectional_weight_tie
        self.mamba_fwd = Direction(config)
        self.mamba_rev = Direction(config) if config.bidirectional else None
        if self.mamba_rev is not None and self.tied:
            self.mamba_rev.in_proj = self.mamba_fwd.in_proj
            self.mamba_rev.out_proj = self.mamba_fwd.out_proj

    def forward(self, x: Tensor, *, mirrored: bool = False) -> Tensor:
        """Mixes (B, L, d_model) along L.

        Args:
            x: hidden states.
            mirrored: compute J mixer(J x) instead, where J flips length and channels.
        """
        # J reverses the direction of reading, so `mirrored` exchanges the two directions.
        fwd, rev = self.mamba_fwd, self.mamba_rev
        forward = fwd.weights(reverse=mirrored)
        if rev is None:
            return _mix(fwd, x, [forward], mirrored)

        backward = rev.weights(reverse=not mirrored)
        if self.tied and self.strategy == "add" and fwd.out_proj.bias is None:
            return _mix(fwd, x, [forward, backward], mirrored)
        out = _mix(fwd, x, [forward], mirrored)
        out_rev = _mix(rev, x, [backward], mirrored)
        return out + out_rev if self.strategy == "add" else out * out_rev

    def begin(self, batch: int) -> MixerState:
        """Returns the state before the first position of `batch` sequences."""
        return MixerState.empty(batch, self.mamba_fwd.weights(reverse=False))

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """Mixes the next position (B, d_model), left to right, as `forward` does."""
        fwd = self.mamba_fwd
        inwards, outwards = fwd.in_proj, fwd.out_proj
        weights = fwd.weights(reverse=False)
        return mamba_mixer_step(
            x, state, inwards.weight, inwards.bias, outwards.weight, outwards.bias, weights
        )


def _mix(
    projections: Direction, x: Tensor, directions: list[DirectionWeights], mirrored: bool
) -> Tensor:
    """Runs the directions between one pair of projections.

    If the channels are in reverse order (`mirrored`), the channel axes of the weights are reversed
    rather than the activations, which are larger.
    """
    inwards, outwards = projections.in_proj, projections.out_proj
    in_weight: Tensor = inwards.weight
    out_weight: Tensor = outwards.weight
    out_bias: Tensor | None = outwards.bias
    if mirrored:
        in_weight, out_weight = in_weight.flip(1), out_weight.flip(0)
        out_bias = None if out_bias is None else out_bias.flip(0)
    return mamba_mixer_fn(x, in_weight, inwards.bias, out_weight, out_bias, directions)


def _norm(config: CaduceusConfig) -> Norm:
    """Creates one of the network's norms."""
    return Norm(config.d_model, config.norm_epsilon, rms=config.rms_norm)


class Block(nn.Module):
    """One residual block: adds to the residual stream, normalises, and mixes positions."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.norm = _norm(config)
        self.mixer = BiMamba(config)

    def forward(
        self, x: Tensor, residual: Tensor | None, modulation: Tensor | None, *, mirrored: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns the mixer's output and the residual stream, both (B, L, d_model)."""
        normed, residual = self.norm(x, residual, modulation, mirrored=mirrored)
        return self.mixer(normed, mirrored=mirrored), residual

    def step(
        self, x: Tensor, residual: Tensor | None, modulation: Tensor | None, state: MixerState
    ) -> tuple[Tensor, Tensor, MixerState]:
        """Reads the next position (B, 1, d_model), as `forward` does, and returns the new state."""
        normed, residual = self.norm(x, residual, modulation)
        out, state = self.mixer.step(normed[:, 0], state)
        return out[:, None], residual, state


class CaduceusMixer(nn.Module):
    """Embedding, blocks and final norm: maps token ids (B, L) to hidden states."""

    complement: Tensor

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = nn.ModuleDict(
            {"word_embeddings": nn.Embedding(config.padded_vocab, config.d_model)}
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = _norm(config)
        complement = torch.tensor(complement_table(config.padded_vocab))
        self.register_buffer("complement", complement, persistent=False)

    @property
    def embedding(self) -> Tensor:
        """The embedding matrix (padded_vocab, d_model)."""
        return cast(nn.Embedding, self.embeddings["word_embeddings"]).weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Computes hidden states in the published layout.

        Returns:
            (B, L, d_model) for Ph. For PS (B, L, 2 d_model): the second half of the channels is the
            opposite strand, flipped in length and channels.
        """
        states = self.strands(NetworkInput(input_ids))
        if not self.config.rcps:
            return states
        # Here both strands are rows, each in its own direction; the published layout flips one.
        forward, reverse = states.chunk(2)
        return torch.cat([forward, reverse.flip(-2, -1)], -1)

    def strands(self, given: NetworkInput) -> Tensor:
        """Computes the hidden states of each strand, read in its own direction.

        Returns:
            (B, L, d_model) for Ph. For PS (2 B, L, d_model): the sequences, then their reverse
            complements.
        """
        x = self._embed(given)
        modulation: Sequence[Tensor | None] = [None] * (len(self.layers) + 1)
        if given.modulation is not None:
            # Both strands of a sequence are under the same condition.
            both = given.modulation.repeat(1, 1, 2, 1) if self.config.rcps else given.modulation
            modulation = list(both)

        residual = None
        for i, layer in enumerate(self.layers):
            # Swapping blocks exchange the strands. Two exchanges cancel, so every other block runs
            # in its mirrored form and nothing is moved (see the module's docstring).
            mirrored = self.config.swaps and i % 2 == 0
            x, residual = layer(x, residual, modulation[i], mirrored=mirrored)
        if self.config.swaps and len(self.layers) % 2 == 1:
            x, residual = _exchange(x), None if residual is None else _exchange(residual)
        return self.norm_f(x, residual, modulation[-1])[0]

    def _embed(self, given: NetworkInput) -> Tensor:
        """Embeds the sequences and, for PS, their reverse complements; adds the context."""
        x = embed(given, self.embedding)
        if self.config.rcps:
            opposite = given.opposite_strand(self.complement)
            x = torch.cat([x, embed(opposite, self.embedding)])
        return x if given.context is None else x + given.context

    def begin(self, batch: int) -> list[MixerState]:
        """Returns each block's state before the first position of `batch` sequences."""
        return [block.mixer.begin(batch) for block in self._blocks]

    def step(
        self, ids: Tensor, state: list[MixerState], modulation: Tensor | None = None
    ) -> tuple[Tensor, list[MixerState]]:
        """Reads the next token of each sequence, as `strands` does.

        Args:
            ids: (B,) token ids.
            state: of each block.
            modulation: as in `NetworkInput`.

        Returns:
            Hidden states (B, d_model) and the new state.
        """
        x, residual, after = embed(NetworkInput(ids[:, None]), self.embedding), None, []
        scales = [None] * (len(self.layers) + 1) if modulation is None else list(modulation)
        for block, scale, before in zip(self._blocks, scales, state, strict=False):
            x, residual, new = block.step(x, residual, scale, before)
            after.append(new)
        return self.norm_f(x, residual, scales[-1])[0][:, 0], after

    @property
    def _blocks(self) -> list[Block]:
        """The layers with their type."""
        return cast(list[Block], list(self.layers))


def _exchange(x: Tensor) -> Tensor:
    """Exchanges the two strands (2 B, L, d), each flipped in length and channels."""
    forward, reverse = x.flip(-2, -1).chunk(2)
    return torch.cat([reverse, forward])


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
        """Starts the weights as published.

        Embeddings are N(0, 0.02). Output projections are divided by the root of the number of
        blocks, so that the residual stream does not grow with depth.
        """
        nn.init.normal_(self.backbone.embedding, std=self.config.initializer_range)
        for name, module in self.named_modules():  # a tied module comes once
            if name.endswith("out_proj"):
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
                module.weight /= math.sqrt(self.config.n_layer)
        for name, bias in self.named_parameters():
            if name.endswith(("in_proj.bias", "out_proj.bias")):
                nn.init.zeros_(bias)

    @property
    def causal(self) -> bool:
        """Whether it is Mamba: one direction, one strand."""
        return not (self.config.bidirectional or self.config.rcps)

    @property
    def norms(self) -> int:
        """Number of norms that `NetworkInput.modulation` scales and shifts."""
        return self.config.n_layer + 1

    @property
    def strands(self) -> int:
        """2 for PS, otherwise 1."""
        return 2 if self.config.rcps else 1

    def states(self, given: NetworkInput) -> Tensor:
        """Computes hidden states (B, L, d_model) of Ph, (2 B, L, d_model) of PS."""
        return self.backbone.strands(given)

    def logits(self, states: Tensor, ids: Sequence[int]) -> Tensor:
        """Computes logits over `ids`; PS adds the opposite strand's logits of the complements."""
        if not self.config.rcps:
            return super().logits(states, ids)
        forward, reverse = states.chunk(2)
        table = complement_table(self.config.padded_vocab)
        opposite = super().logits(reverse, [table[i] for i in ids])
        return super().logits(forward, ids) + opposite.flip(1)

    def begin(self, batch: int) -> list[MixerState]:
        """Returns the state before the first token; see `LanguageModel.begin`."""
        return self.backbone.begin(batch) if self.recurrent else super().begin(batch)

    def step(
        self,
        tokens: Tensor,
        state: list[MixerState],
        modulation: Tensor | None = None,
        ids: Sequence[int] = DNA.ids,
    ) -> tuple[Tensor, list[MixerState]]:
        """Reads the next token of each sequence; see `LanguageModel.step`."""
        states, state = self.backbone.step(tokens, state, modulation)
        return self.logits(states, ids), state

    def describe(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns config.json and the tensors of model.safetensors, in the published format.

        Tied weights appear under each of their names: recent transformers releases do not tie what
        is missing, and leave it uninitialised without a warning.
        """
        tensors = {}
        for name, parameter in self.named_parameters():
            for key in published_keys(name, self.config):
                tensors[key] = stored(parameter)
        return published_config(self.config), tensors | complement_maps(self.config)
