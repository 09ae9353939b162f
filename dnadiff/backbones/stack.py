"""The pre-norm stack of Hyena and the Transformer, which differ in how they mix positions.

    x <- x + mixer(norm(x)),    x <- x + mlp(norm(x))

LayerNorm, biases, GELU and initial weights as in GPT-2 (Radford et al. 2019): N(0, 0.02), and the
projections that add to the residual stream divided by the root of the number of additions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.alphabet import DNA
from dnadiff.backbones.checkpoint import stored
from dnadiff.backbones.language_model import LanguageModel, Norm
from dnadiff.backbones.network_input import NetworkInput, embed


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The shape of a stack.

    Attributes:
        d_model: channels.
        n_layer: number of blocks.
        vocab_size: rows of the embedding.
        expand: width of the MLP, as a multiple of `d_model`.
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
        """Maps (B, L, d_model) to the same shape."""
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
        """Returns the MLP's output and the residual stream, both (B, L, d_model).

        Args:
            x: output of the previous block.
            residual: the residual stream before it is added.
            modulation: of the two norms.
        """
        # Each norm first adds its input to the residual stream, in one fused pass over memory.
        normed, residual = self.norm1(x, residual, modulation[0])
        normed, residual = self.norm2(self.mixer(normed), residual, modulation[1])
        return self.mlp(normed), residual


class Stack(nn.Module):
    """Embedding, blocks and final norm: maps an input to hidden states (B, L, d_model)."""

    def __init__(self, config: StackConfig, mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, mixer) for mixer in mixers)
        self.norm_f = Norm(config.d_model, config.norm_epsilon, rms=False)

    @property
    def embedding(self) -> Tensor:
        """The embedding matrix (vocab_size, d_model)."""
        return self.embeddings.weight

    def forward(self, given: NetworkInput) -> Tensor:
        """Computes the last hidden states."""
        x, residual = embed(given, self.embedding), None
        # The vectors of an n-gram memory, if the network has one.
        if given.context is not None:
            x = x + given.context
        # Two norms in each block, and the final one.
        modulation: Sequence[Tensor | None] = [None] * (2 * len(self.layers) + 1)
        if given.modulation is not None:
            modulation = list(given.modulation)
        for i, layer in enumerate(self.layers):
            x, residual = layer(x, residual, modulation[2 * i : 2 * i + 2])
        return self.norm_f(x, residual, modulation[-1])[0]


class StackLM(LanguageModel):
    """A stack with its language-model head.

    Each row of the batch is one strand. Unlike Caduceus-PS a stack is not equivariant to reverse
    complementation; training on both strands brings its predictions for them closer together.
    """

    def __init__(self, config: StackConfig, mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.backbone = Stack(config, mixers)
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Starts the weights as GPT-2 does; see the module's docstring."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith("out_proj"):
                # Two additions to the residual stream in each block.
                module.weight /= math.sqrt(2 * self.config.n_layer)

    @property
    def norms(self) -> int:
        """Number of norms that `NetworkInput.modulation` scales and shifts."""
        return 2 * self.config.n_layer + 1

    def states(self, given: NetworkInput) -> Tensor:
        """Computes the last hidden states (B, L, d_model)."""
        return self.backbone(given)

    def describe(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns config.json and the tensors of model.safetensors, in our own format."""
        # The head is tied to the embedding, so the parameters are all that has to be stored.
        config = {"model_type": self.config.model_type, **asdict(self.config)}
        return config, {name: stored(parameter) for name, parameter in self.named_parameters()}
