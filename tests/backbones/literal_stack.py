"""The pre-norm stack, Hyena's operator and rotary attention written out literally, in float64.

They share no code with dnadiff: convolutions are sums over pairs of positions, rotations are
matrices, softmax is one row at a time. `t` is a checkpoint's tensors by name.
"""

import math

import torch
from torch import Tensor


def logits(t: dict[str, Tensor], ids: Tensor, mixer) -> Tensor:
    """Logits (B, L, vocab) of a stack whose blocks mix positions with mixer(t, x, prefix)."""
    t = {name: value.double() for name, value in t.items()}
    x, i = t["backbone.embeddings.weight"][ids], 0
    while f"backbone.layers.{i}.norm1.weight" in t:
        block = f"backbone.layers.{i}"
        x = x + mixer(t, norm(t, x, f"{block}.norm1"), f"{block}.mixer")
        x = x + mlp(t, norm(t, x, f"{block}.norm2"), f"{block}.mlp")
        i += 1
    return norm(t, x, "backbone.norm_f") @ t["backbone.embeddings.weight"].T


def linear(t: dict[str, Tensor], x: Tensor, key: str) -> Tensor:
    y = x @ t[f"{key}.weight"].T
    return y + t[f"{key}.bias"] if f"{key}.bias" in t else y


def norm(t: dict[str, Tensor], x: Tensor, key: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * t[f"{key}.weight"]
        + t[f"{key}.bias"]
    )


def mlp(t: dict[str, Tensor], x: Tensor, key: str) -> Tensor:
    h = linear(t, x, f"{key}.in_proj")
    h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    return linear(t, h, f"{key}.out_proj")


def hyena(l_max: int):
    """Hyena's operator: projections, short convolutions, gate, long convolution, gate."""

    def mixer(t: dict[str, Tensor], x: Tensor, key: str) -> Tensor:
        length = x.shape[1]
        projected = linear(t, x, f"{key}.in_proj")
        taps = t[f"{key}.short_conv.weight"][:, 0]
        short = torch.zeros_like(projected) + t[f"{key}.short_conv.bias"]
        for i in range(length):
            for back in range(taps.shape[1]):
                if i - back >= 0:
                    short[:, i] += taps[:, taps.shape[1] - 1 - back] * projected[:, i - back]
        d = x.shape[2]
        a, b, v = short[..., :d], short[..., d : 2 * d], short[..., 2 * d :]
        u = b * v
        h = torch.stack([filter_value(t, f"{key}.filter", i, l_max, d) for i in range(length)])
        y = t[f"{key}.filter.skip"] * u
        for i in range(length):
            for s in range(i + 1):
                y[:, i] += h[i - s] * u[:, s]
        return linear(t, a * y, f"{key}.out_proj")

    return mixer


def filter_value(t: dict[str, Tensor], key: str, distance: int, l_max: int, d: int) -> Tensor:
    """The filters of all channels at one distance."""
    time, waves = distance / l_max, (t[f"{key}.network.0.weight"].shape[1] - 1) // 2
    angles = [2 * math.pi * k * time for k in range(waves)]
    features = (
        [time] + [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
    )
    h = torch.tensor(features, dtype=torch.float64)
    for layer in (0, 2, 4):
        h = torch.sin(t[f"{key}.network.1.frequency"] * linear(t, h, f"{key}.network.{layer}"))
    h = linear(t, h, f"{key}.network.6")
    # The window is at 1 % of its height at 1.5 l_max in the first channel, and at 0.3 l_max in the
    # last.
    rates = [
        math.log(100) / 1.5 + (math.log(100) / 0.3 - math.log(100) / 1.5) * c / max(d - 1, 1)
        for c in range(d)
    ]
    return h * torch.tensor([math.exp(-rate * time) + 0.05 for rate in rates], dtype=torch.float64)


def attention(head_dim: int, causal: bool):
    """Softmax attention with explicit rotation matrices, one query at a time."""

    def mixer(t: dict[str, Tensor], x: Tensor, key: str) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = linear(t, x, f"{key}.in_proj").chunk(3, -1)
        out = torch.zeros_like(q)
        turn = [rotation(i, head_dim) for i in range(length)]
        for head in range(q.shape[-1] // head_dim):
            own = slice(head * head_dim, (head + 1) * head_dim)
            for i in range(length):
                seen = range(i + 1) if causal else range(length)
                for row in range(batch):
                    scores = [
                        turn[i] @ q[row, i, own] @ (turn[j] @ k[row, j, own]) / head_dim**0.5
                        for j in seen
                    ]
                    weights = torch.stack(scores).exp()
                    weights = weights / weights.sum()
                    out[row, i, own] = sum(
                        w * v[row, j, own] for w, j in zip(weights, seen, strict=True)
                    )
        return linear(t, out, f"{key}.out_proj")

    return mixer


def rotation(position: int, width: int) -> Tensor:
    """Matrix (width, width) that rotates channels i and i + width / 2 in their plane."""
    matrix, half = torch.zeros(width, width, dtype=torch.float64), width // 2
    for i in range(half):
        angle = position / 10_000 ** (2 * i / width)
        matrix[i, i] = matrix[i + half, i + half] = math.cos(angle)
        matrix[i, i + half], matrix[i + half, i] = -math.sin(angle), math.sin(angle)
    return matrix
