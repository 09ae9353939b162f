"""Caduceus written out literally from its description, step by step, with published weight names.

It shares no code with dnadiff: PS keeps both strands in one tensor of 2 d channels and really flips
them; the scan is a loop over positions; the two directions flip the sequence.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def published(**changes) -> dict:
    """A small config.json as the published code writes it."""
    ssm = {
        "d_state": 4,
        "d_conv": 4,
        "expand": 2,
        "dt_rank": "auto",
        "conv_bias": True,
        "bias": False,
    }
    config = {
        "architectures": ["CaduceusForMaskedLM"], "model_type": "caduceus",
        "transformers_version": "4.38.1", "torch_dtype": "float32", "initializer_cfg": None,
        "residual_in_fp32": False, "pad_vocab_size_multiple": 8, "vocab_size": 16,
        "d_model": 6, "n_layer": 2, "rcps": True, "fused_add_norm": True, "rms_norm": True,
        "norm_epsilon": 1e-5, "bidirectional": True, "bidirectional_strategy": "add",
        "bidirectional_weight_tie": True,
    }  # fmt: skip
    config |= changes | {"ssm_cfg": ssm | changes.get("ssm_cfg", {})}
    pairs = {7: 10, 8: 9, 9: 8, 10: 7}
    return config | {
        "complement_map": {str(i): pairs.get(i, i) for i in range(config["vocab_size"])}
    }


def tied(name: str, config: dict) -> bool:
    """Whether this weight only repeats another one; older transformers releases do not write it."""
    shared = config["bidirectional_weight_tie"] and (
        "mamba_rev.in_proj" in name or "mamba_rev.out_proj" in name
    )
    return shared or name in ("lm_head.weight", "lm_head.lm_head.weight")


def random_tensors(config: dict, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under every name that the published state dictionary has, tied ones twice."""
    rng = torch.Generator().manual_seed(seed)
    ps, d, ssm, vocab = config["rcps"], config["d_model"], config["ssm_cfg"], config["vocab_size"]
    wide, n = ssm["expand"] * d, ssm["d_state"]
    rank = math.ceil(d / 16) if ssm["dt_rank"] == "auto" else ssm["dt_rank"]
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(key: str) -> None:
        key += ".submodule" if ps and not config["fused_add_norm"] else ""
        shapes[f"{key}.weight"] = (d,)
        if not config["rms_norm"]:
            shapes[f"{key}.bias"] = (d,)

    def mamba(key: str) -> None:
        shapes.update(
            {
                f"{key}.A_log": (wide, n),
                f"{key}.D": (wide,),
                f"{key}.conv1d.weight": (wide, 1, ssm["d_conv"]),
            }
        )
        shapes.update(
            {f"{key}.in_proj.weight": (2 * wide, d), f"{key}.x_proj.weight": (rank + 2 * n, wide)}
        )
        shapes.update({f"{key}.dt_proj.weight": (wide, rank), f"{key}.dt_proj.bias": (wide,)})
        shapes[f"{key}.out_proj.weight"] = (d, wide)
        if ssm["conv_bias"]:
            shapes[f"{key}.conv1d.bias"] = (wide,)
        if ssm["bias"]:
            shapes.update({f"{key}.in_proj.bias": (2 * wide,), f"{key}.out_proj.bias": (d,)})

    embedding = f"caduceus.backbone.embeddings.word_embeddings.{'embedding.' if ps else ''}weight"
    shapes[embedding] = (vocab, d)
    for i in range(config["n_layer"]):
        layer = f"caduceus.backbone.layers.{i}"
        norm(f"{layer}.norm")
        for direction in ("mamba_fwd", "mamba_rev") if config["bidirectional"] else ("mamba_fwd",):
            mamba(f"{layer}.mixer.{'submodule.' if ps else ''}{direction}")
    norm("caduceus.backbone.norm_f")

    tensors = {}
    for key, shape in shapes.items():
        scale = {"A_log": 0.3, "weight": 0.6}.get(key.rsplit(".", 1)[-1], 0.5)
        tensors[key] = (1.0 if len(shape) == 1 else 0.0) + scale * torch.randn(shape, generator=rng)
    tensors["lm_head.lm_head.weight" if ps else "lm_head.weight"] = tensors[embedding].clone()
    if config["bidirectional"] and config["bidirectional_weight_tie"]:
        for key in [
            key for key in tensors if "mamba_fwd.in_proj" in key or "mamba_fwd.out_proj" in key
        ]:
            tensors[key.replace("mamba_fwd", "mamba_rev")] = tensors[key].clone()
    if ps:
        for key in (
            "caduceus.backbone.embeddings.word_embeddings.complement_map",
            "lm_head.complement_map",
        ):
            tensors[key] = torch.tensor([config["complement_map"][str(i)] for i in range(vocab)])
    return tensors


def flip(x: Tensor) -> Tensor:
    """Reverse complement of hidden states: length and channels."""
    return x.flip(-2, -1)


class Literal:
    def __init__(self, tensors: dict[str, Tensor], config: dict) -> None:
        self.t = {name: value.double() for name, value in tensors.items()}
        self.c = config
        self.ps, self.fused = config["rcps"], config["fused_add_norm"]
        self.comp = (
            [int(config["complement_map"][k]) for k in sorted(config["complement_map"], key=int)]
            if self.ps
            else []
        )

    def hidden(self, ids: Tensor) -> Tensor:
        x, residual = self.embed(ids), None
        for i in range(self.c["n_layer"]):
            x, residual = self.block(x, residual, f"caduceus.backbone.layers.{i}")
        return self.final_norm(x, residual)

    def logits(self, ids: Tensor) -> Tensor:
        h, d = self.hidden(ids), self.c["d_model"]
        w = self.embedding()
        if not self.ps:
            return h @ w.T
        return h[..., :d] @ w.T + h[..., d:].flip(-1) @ w[self.comp].T

    def embedding(self) -> Tensor:
        inner = "embedding." if self.ps else ""
        return self.t[f"caduceus.backbone.embeddings.word_embeddings.{inner}weight"]

    def embed(self, ids: Tensor) -> Tensor:
        w = self.embedding()
        if not self.ps:
            return w[ids]
        opposite = torch.tensor(self.comp)[ids].flip(-1)
        return torch.cat([w[ids], flip(w[opposite])], -1)

    def norm(self, x: Tensor, key: str) -> Tensor:
        if self.ps and not self.fused:
            key = f"{key}.submodule"
        weight = self.t[f"{key}.weight"]
        eps = self.c["norm_epsilon"]
        if self.c["rms_norm"]:
            return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight
        mean = x.mean(-1, keepdim=True)
        var = (x - mean).square().mean(-1, keepdim=True)
        return (x - mean) / (var + eps).sqrt() * weight + self.t[f"{key}.bias"]

    def block(self, x: Tensor, residual: Tensor | None, key: str) -> tuple[Tensor, Tensor]:
        residual = x if residual is None else x + residual
        if not self.ps:
            return self.mix(self.norm(residual, f"{key}.norm"), f"{key}.mixer"), residual
        d = self.c["d_model"]
        first, second = residual[..., :d], residual[..., d:]
        if (
            self.fused
        ):  # the forward branch takes the second half, the reverse branch the flipped first half
            fwd, rev = second, flip(first)
        else:
            fwd, rev = first, flip(second)
        residual = torch.cat([fwd, flip(rev)], -1)
        fwd, rev = self.norm(fwd, f"{key}.norm"), self.norm(rev, f"{key}.norm")
        out = self.mix(fwd, f"{key}.mixer.submodule"), self.mix(rev, f"{key}.mixer.submodule")
        return torch.cat([out[0], flip(out[1])], -1), residual

    def final_norm(self, x: Tensor, residual: Tensor) -> Tensor:
        x, key, d = x + residual, "caduceus.backbone.norm_f", self.c["d_model"]
        if not self.ps:
            return self.norm(x, key)
        return torch.cat([self.norm(x[..., :d], key), flip(self.norm(flip(x[..., d:]), key))], -1)

    def mix(self, x: Tensor, key: str) -> Tensor:
        out = self.mamba(x, f"{key}.mamba_fwd", f"{key}.mamba_fwd")
        if not self.c["bidirectional"]:
            return out
        shared = f"{key}.mamba_fwd" if self.c["bidirectional_weight_tie"] else f"{key}.mamba_rev"
        rev = self.mamba(x.flip(1), f"{key}.mamba_rev", shared).flip(1)
        return out + rev if self.c["bidirectional_strategy"] == "add" else out * rev

    def mamba(self, x: Tensor, key: str, projections: str) -> Tensor:
        t, ssm = self.t, self.c["ssm_cfg"]
        xz = F.linear(x, t[f"{projections}.in_proj.weight"], t.get(f"{projections}.in_proj.bias"))
        u, z = xz.chunk(2, -1)
        taps, length = t[f"{key}.conv1d.weight"][:, 0], u.shape[1]
        padded = F.pad(u, (0, 0, taps.shape[1] - 1, 0))
        conv = sum(padded[:, k : k + length] * taps[:, k] for k in range(taps.shape[1]))
        if f"{key}.conv1d.bias" in t:
            conv = conv + t[f"{key}.conv1d.bias"]
        u = F.silu(conv)
        n = ssm["d_state"]
        projected = u @ t[f"{key}.x_proj.weight"].T
        rank = projected.shape[-1] - 2 * n
        dt, b, c = projected.split([rank, n, n], -1)
        delta = F.softplus(dt @ t[f"{key}.dt_proj.weight"].T + t[f"{key}.dt_proj.bias"])
        a = -t[f"{key}.A_log"].exp()
        state, ys = torch.zeros(u.shape[0], u.shape[2], n, dtype=u.dtype), []
        for i in range(length):
            state = (delta[:, i, :, None] * a).exp() * state + (delta[:, i] * u[:, i])[
                ..., None
            ] * b[:, i, None, :]
            ys.append((state * c[:, i, None, :]).sum(-1) + t[f"{key}.D"] * u[:, i])
        y = torch.stack(ys, 1) * F.silu(z)
        return F.linear(
            y, t[f"{projections}.out_proj.weight"], t.get(f"{projections}.out_proj.bias")
        )
