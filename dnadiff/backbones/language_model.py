"""Shared by all backbones: their interface, norms, the tied head, and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dnadiff.alphabet import DNA
from dnadiff.backbones.checkpoint import write_model_folder
from dnadiff.backbones.conditioning import modulate
from dnadiff.backbones.network_input import NetworkInput
from dnadiff.ops import add_norm_fn


class LanguageModel(nn.Module, ABC):
    """A backbone with a language-model head that is tied to its embedding.

    Attributes:
        config: the architecture's configuration, with `d_model` and `n_layer`.
        backbone: maps token ids to hidden states; its `embedding` is the matrix (rows, d_model).
        recurrent: whether the model can also be run token by token with a state of constant size
            (`begin` and `step`).
    """

    config: Any
    backbone: Any
    recurrent: bool = False

    @property
    @abstractmethod
    def causal(self) -> bool:
        """Whether a hidden state depends only on tokens up to and including its own."""

    @property
    @abstractmethod
    def norms(self) -> int:
        """Number of norms that `NetworkInput.modulation` scales and shifts."""

    @property
    def strands(self) -> int:
        """Number of strands in `states`: 2 where the network also reads the opposite strand."""
        return 1

    @abstractmethod
    def states(self, given: NetworkInput) -> Tensor:
        """Computes the last hidden states (strands * B, L, d_model).

        Each strand is read in its own direction; the first B rows are the sequences as given.
        """

    @abstractmethod
    def describe(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the content of config.json and the tensors of model.safetensors."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Computes logits (B, L, rows) of token ids (B, L), over all rows of the embedding."""
        return self.denoise(NetworkInput(input_ids), range(len(self.backbone.embedding)))

    def denoise(self, given: NetworkInput, ids: Sequence[int] = DNA.ids) -> Tensor:
        """Computes logits (B, L, len(ids)) over the token ids `ids`."""
        return self.logits(self.states(given), ids)

    def logits(self, states: Tensor, ids: Sequence[int]) -> Tensor:
        """Computes logits (..., len(ids)) of hidden states (..., d_model)."""
        embedding = self.backbone.embedding
        # Outside autocast: bfloat16 would round a logit of 4 to a multiple of 1/64, and its
        # probability with it.
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.to(embedding.dtype), embedding[list(ids)])

    def begin(self, batch: int) -> Any:
        """Returns a recurrent model's state before the first token of `batch` sequences.

        Raises:
            ValueError: if the model is not recurrent.
        """
        raise ValueError(
            f"{type(self).__name__} has no recurrent form: it needs all tokens at once"
        )

    def step(
        self,
        tokens: Tensor,
        state: Any,
        modulation: Tensor | None = None,
        ids: Sequence[int] = DNA.ids,
    ) -> tuple[Tensor, Any]:
        """Reads the next token of each sequence.

        Args:
            tokens: (B,) token ids.
            state: what `begin` or the previous `step` returned; it is not changed.
            modulation: as in `NetworkInput`.
            ids: the token ids to predict.

        Returns:
            Logits (B, len(ids)), equal to those of `denoise` at that position, and the new state.
        """
        raise NotImplementedError

    def save_pretrained(
        self,
        folder: str | Path,
        extra: Mapping[str, Any] | None = None,
        own: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Writes config.json and model.safetensors; Caduceus and Mamba in the published format.

        Args:
            folder: created if absent.
            extra: content of the "dnadiff" section of config.json.
            own: additional weights, whose names begin with "dnadiff."; `load_pretrained` skips
                them.
            dtype: how weights are stored.
        """
        config, tensors = self.describe()
        if extra:
            config = config | {"dnadiff": dict(extra)}
        # The published code reads from this field in which type to hold the weights.
        if "torch_dtype" in config:
            config["torch_dtype"] = str(dtype).removeprefix("torch.")
        tensors |= dict(own or {})
        # Buffers of integers, such as the complement of each token id, keep their type.
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = tensor.to(dtype)
        write_model_folder(Path(folder), config, tensors)


class Norm(nn.Module):
    """RMSNorm or LayerNorm of a residual stream, fused with the addition before it."""

    def __init__(self, d_model: int, eps: float, *, rms: bool) -> None:
        super().__init__()
        self.rms, self.eps = rms, eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = None if rms else nn.Parameter(torch.zeros(d_model))

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        modulation: Tensor | None = None,
        *,
        mirrored: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Adds, normalises and modulates.

        Args:
            x: (B, L, d_model) output of the previous block.
            residual: (B, L, d_model) residual stream, or None before the first block.
            modulation: (2, B, d_model) scale and shift.
            mirrored: whether the channels of `x` and `residual` are in reverse order.

        Returns:
            The normalised sum and the sum itself, both (B, L, d_model).
        """
        # Reversing the few weights is cheaper than reversing the channels of the activations.
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if mirrored:
            weight = weight.flip(0)
            bias = None if bias is None else bias.flip(0)
        normed, total = add_norm_fn(x, residual, weight, bias, self.eps, rms=self.rms)

        if modulation is None:
            return normed, total
        if mirrored:
            modulation = modulation.flip(-1)
        return modulate(normed, modulation), total
