"""The pre-norm stack that Hyena and the Transformer share; only what mixes the positions differs.

    x <- x + mixer(norm(x)),    x <- x + mlp(norm(x))

LayerNorm, biases, GELU and weights as in GPT-2 (Radford et al. 2019): N(0, 0.02), with those of the projections that
add to the residual stream divided by the root of the number of additions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.alphabet import DNA
from dnadiff.backbones.language_model import LanguageModel, Norm, embed


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The shape of a stack.

    Attributes:
        d_model: channels.
        n_layer: number of blocks.
        vocab_size: rows of the embedding.
        expand: the MLP is this many times as wide as the stream.
        norm_epsilon: inside the root of each norm.
    """

    model_type: ClassVar[str]

    d_model: int
    n_layer: int
    vocab_size: int = 16
    expand: int
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        if self.vocab_size < DNA.vocab_size:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; DNA needs {DNA.vocab_size} token ids"
            )


class MLP(nn.Module):
    """Two projections of each position with a GELU between them."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.d_model, config.expand * config.d_model)
        self.out_proj = nn.Linear(config.expand * config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d_model) to the same."""
        return self.out_proj(F.gelu(self.in_proj(x), approximate="tanh"))


class Block(nn.Module):
    """Add, norm, mix; add, norm, MLP."""

    def __init__(self, config: StackConfig, mixer: nn.Module) -> None:
        super().__init__()
        self.norm1 = Norm(config.d_model, config.norm_epsilon, rms=False)
        self.mixer = mixer
        self.norm2 = Norm(config.d_model, config.norm_epsilon, rms=False)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, residual: Tensor | None, modulation: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """The MLP's output and the residual stream, both (B, L, d_model); `modulation` is of the two norms."""
        normed, residual = self.norm1(x, residual, modulation[0])
        normed, residual = self.norm2(self.mixer(normed), residual, modulation[1])
        return self.mlp(normed), residual


class Stack(nn.Module):
    """Embedding, blocks and final norm: token ids (B, L) to hidden states (B, L, d_model)."""

    def __init__(self, config: StackConfig, mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, mixer) for mixer in mixers)
        self.norm_f = Norm(config.d_model, config.norm_epsilon, rms=False)

    @property
    def embedding(self) -> Tensor:
        """The embedding matrix (vocab_size, d_model)."""
        return self.embeddings.weight

    def forward(
        self,
        input_ids: Tensor,
        token_probs: Tensor | None = None,
        modulation: Tensor | None = None,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """Hidden states; see `LanguageModel.states` for the arguments."""
        x, residual = embed(input_ids, token_probs, self.embedding, self_cond), None
        each = [None] * (2 * len(self.layers) + 1) if modulation is None else list(modulation)
        for i, layer in enumerate(self.layers):
            x, residual = layer(x, residual, each[2 * i : 2 * i + 2])
        return self.norm_f(x, residual, each[-1])[0]


class StackLM(LanguageModel):
    """A stack with its language-model head.

    A row of the batch is one strand: unlike Caduceus-PS a stack is not equivariant, and what it makes of a sequence and
    of its reverse complement differs as far as training on both has not made it alike.
    """

    def __init__(self, config: StackConfig, mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.backbone = Stack(config, mixers)
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """As GPT-2's; see the module's docstring."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith("out_proj"):
                module.weight /= math.sqrt(2 * self.config.n_layer)

    @property
    def norms(self) -> int:
        """How many norms a condition may modulate."""
        return 2 * self.config.n_layer + 1

    def states(
        self,
        tokens: Tensor,
        token_probs: Tensor | None = None,
        modulation: Tensor | None = None,
        self_cond: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, L, d_model); see `LanguageModel.states`."""
        return self.backbone(tokens, token_probs, modulation, self_cond)
