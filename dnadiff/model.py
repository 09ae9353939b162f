"""The bundle that a user holds: alphabet, network, objective and what they were trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from dnadiff.alphabet import Alphabet
from dnadiff.backbones.checkpoint import OBJECTIVE_PREFIX
from dnadiff.backbones.denoiser import LMDenoiser
from dnadiff.backbones.hub import local_folder
from dnadiff.backbones.published import load_pretrained, save_pretrained
from dnadiff.backbones.weights import find_weights, read_tensors
from dnadiff.diffusion import Objective, make_objective, name_of
from dnadiff.errors import InputError, UsageError
from dnadiff.files import read_json
from dnadiff.sampling import SamplerConfig, check_fasta_path, resumable_fasta
from dnadiff.sampling.generation import Generation, GenerationOptions

_TOKENS_PER_BATCH = 32_768  # that the network is shown at once


class Model:
    """A trained denoiser with its objective. Made by `load`, or by training."""

    def __init__(
        self, denoiser: LMDenoiser, objective: Objective, about: Mapping[str, Any] | None = None
    ) -> None:
        self.denoiser = denoiser.eval()
        self.objective = objective.eval()
        self.about = dict(about or {})

    @property
    def alphabet(self) -> Alphabet:
        """The letters."""
        return self.objective.alphabet

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.denoiser.parameters()).device

    @property
    def params(self) -> int:
        """Number of trained numbers."""
        return sum(
            p.numel() for module in (self.denoiser, self.objective) for p in module.parameters()
        )

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the weights."""
        sha = hashlib.sha256()
        weights = self.denoiser.state_dict() | own_state(self.denoiser, self.objective)
        for name, weight in sorted(weights.items()):
            sha.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()[:12]

    def save(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors into `folder`; Caduceus and Mamba in the published format."""
        about = {
            "objective": name_of(self.objective),
            "objective_options": self.objective.options,
            "needs_sigma": self.denoiser.needs_sigma,
            "labels": list(self.denoiser.labels),
            **self.about,
        }
        save_pretrained(self.denoiser.lm, folder, about, own_state(self.denoiser, self.objective))

    def generate(self, num: int = 1, **options: Unpack[GenerationOptions]) -> list[str]:
        """Draws `num` sequences of each template.

        Args:
            num: how many.
            options: length, template, seed, batch_size, constraints, label, guidance, guide; and
                sampler, steps, remask, eta, window, stride, temperature, top_p. See
                `dnadiff.sampling.generation.Generation`.

        Raises:
            InputError: if a template cannot be read, or a constraint cannot be kept.
            UsageError: if an option is not valid for this model.
        """
        return list(self.stream(num, **options))

    def stream(
        self, num: int = 1, *, start: int = 0, **options: Unpack[GenerationOptions]
    ) -> Iterator[str]:
        """Draws sequences as `generate` does, and yields each when its batch is done.

        Args:
            num: how many, of each template.
            start: number of sequences to leave out at the beginning.
            options: see `generate`.
        """
        return self._generation(num, options).sequences(start)

    def write_fasta(
        self,
        path: str | Path,
        num: int = 1,
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> None:
        """Draws sequences as `generate` does, and writes them as FASTA.

        The header of each record has the digest of the model, the sampler and its settings, the
        seed, and a digest of the template. Names differ between models, seeds and settings. What is
        drawn is kept in `path`.part until all is there; the same call continues it.

        Args:
            path: a file that does not exist yet, or "-" for stdout.
            num: how many, of each template.
            progress: called with (sequences done, all).
            options: see `generate`.

        Raises:
            InputError: if the file exists or cannot be written, or as for `generate`.
            UsageError: see `generate`.
        """
        check_fasta_path(path)
        generation = self._generation(num, options)
        with resumable_fasta(path, generation.headers(self.digest)) as (done, write):
            for count, sequence in enumerate(generation.sequences(start=done), done):
                if progress is not None:
                    progress(count, generation.count)
                write(sequence)
            if progress is not None:
                progress(generation.count, generation.count)

    def resolve_sampler(self, **options: Unpack[GenerationOptions]) -> SamplerConfig:
        """Returns the sampler that `generate` takes, with all its settings, for the first template.

        Args:
            options: see `generate`.

        Raises:
            UsageError: see `generate`.
        """
        generation = self._generation(1, options)
        return generation.config(len(generation.templates[0].tokens))

    def _generation(self, num: int, options: GenerationOptions) -> Generation:
        """Returns the sequences that a user asks for, validated and ready to be drawn."""
        trained_window = self.about.get("window")
        return Generation(
            self.denoiser, self.objective, num, trained_window=trained_window, **options
        )

    def score(self, sequences: Sequence[str], *, draws: int = 8, seed: int = 0) -> pd.DataFrame:
        """A bound on the negative log-likelihood of each sequence.

        Args:
            sequences: of any lengths; N is context and is not scored.
            draws: network calls for each.
            seed: of the estimate.

        Returns:
            A table with the columns name, length (bases), nats, nats_per_base, ppl, and se (nats, over the draws).
        """
        rows: dict[int, tuple[float, float, int]] = {}
        for index, tokens in self._batches(sequences):
            bound = self.objective.bound(
                self.denoiser,
                tokens,
                draws=draws,
                seed=seed,
                index=torch.tensor(index, device=self.device),
            )
            rows.update(
                zip(
                    index,
                    zip(bound.nats.tolist(), bound.se.tolist(), bound.bases.tolist(), strict=True),
                    strict=True,
                )
            )
        table = pd.DataFrame(
            [rows[i] for i in range(len(sequences))], columns=["nats", "se", "bases"]
        )
        per_base = table.nats / table.bases.where(table.bases > 0)
        return pd.DataFrame(
            {
                "name": [f"sequence_{i + 1}" for i in range(len(sequences))],
                "length": [len(s) for s in sequences],
                "nats": table.nats,
                "nats_per_base": per_base,
                "ppl": np.exp(per_base),
                "se": table.se,
            }
        )

    @torch.no_grad()
    def embed(
        self,
        sequences: Sequence[str],
        *,
        pooling: str = "mean",
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Embeddings (n, d_model) float32: the last hidden states, averaged over bases and over both strands.

        A sequence and its reverse complement have the same embedding. Sequences are never padded (those of one length
        share a batch), so an embedding does not depend on its batch and says nothing of a length it was padded to.

        Args:
            sequences: of any lengths, none empty.
            pooling: "mean".
            progress: called with (sequences done, all).
        """
        if pooling != "mean":
            raise UsageError(f"unknown pooling {pooling!r}; there is mean")
        out = np.empty((len(sequences), self.denoiser.lm.config.d_model), np.float32)
        done = 0
        for index, tokens in self._batches(sequences):
            out[index] = self.denoiser.pooled(tokens).float().cpu().numpy()
            done += len(index)
            if progress is not None:
                progress(done, len(sequences))
        return out

    def _batches(self, sequences: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
        """Places and tokens (B, L) of sequences of one length each, in batches; sequences of equal length together."""
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for i, sequence in enumerate(sequences):
            if not sequence:
                raise InputError(f"sequence {i + 1} is empty")
            by_length[len(sequence)].append(i)
        for length, places in sorted(by_length.items()):
            size = max(1, _TOKENS_PER_BATCH // length)
            for start in range(0, len(places), size):
                chunk = places[start : start + size]
                tokens = np.stack([self._encode(sequences[i], i) for i in chunk])
                yield chunk, torch.from_numpy(tokens).to(self.device)

    def _encode(self, sequence: str, place: int) -> np.ndarray:
        try:
            return self.alphabet.encode(sequence)
        except ValueError as error:
            raise InputError(f"sequence {place + 1}: {error}") from error


def load(path: str | Path, device: str | None = None) -> Model:
    """A model from a run folder or a model folder; also from a published Caduceus, as a masked-diffusion model.

    Args:
        path: a folder with config.json and weights, a run folder with such a folder named model, or
            hf:OWNER/NAME[@REVISION] (see `dnadiff.backbones.hub`).
        device: where to put it; a GPU if there is one, by default.

    Raises:
        InputError: if it is not a model, naming what is missing or wrong.
    """
    folder = local_folder(path)
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{path}: not a model: there is no config.json in it (give a run folder or its model folder)"
        )
    lm = load_pretrained(folder)
    about = dict(read_json(folder / "config.json").get("dnadiff") or {})
    try:
        objective = make_objective(
            about.pop("objective", "mdlm"), about.pop("objective_options", None)
        )
    except UsageError as error:
        raise InputError(f"{folder}/config.json: {error}") from error
    told, labels = about.pop("needs_sigma", False), about.pop("labels", [])
    if not isinstance(told, bool):
        raise InputError(
            f"{folder}/config.json: needs_sigma cannot be {told!r}; true or false is needed"
        )
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError(
            f"{folder}/config.json: labels cannot be {labels!r}; a list of names is needed"
        )
    denoiser = LMDenoiser(
        lm,
        needs_sigma=told,
        labels=tuple(labels),
        outputs=objective.outputs,
        self_conditioned=objective.self_conditioned,
    )
    load_own_state(folder, denoiser, objective)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Model(denoiser.to(device), objective.to(device), about)


def own_parts(denoiser: LMDenoiser, objective: Objective) -> dict[str, nn.Module]:
    """The modules that are saved beside the published network."""
    parts = {
        "conditioning": denoiser.conditioning,
        "self_cond": denoiser.self_cond,
        "objective": objective,
    }
    return {name: module for name, module in parts.items() if module is not None}


def own_state(denoiser: LMDenoiser, objective: Objective) -> dict[str, Tensor]:
    """What the published format has no place for, under names that begin with "dnadiff."."""
    return {
        f"{OBJECTIVE_PREFIX}{part}.{name}": value.detach().cpu().contiguous()
        for part, module in own_parts(denoiser, objective).items()
        for name, value in module.state_dict().items()
    }


def load_own_state(folder: Path, denoiser: LMDenoiser, objective: Objective) -> None:
    """Copies what `own_state` wrote; all of it must be there, and nothing else.

    Raises:
        InputError: naming the file and the weight.
    """
    path = find_weights(folder)
    found = {
        name: value
        for name, value in read_tensors(path).items()
        if name.startswith(OBJECTIVE_PREFIX)
    }
    wanted = own_state(denoiser, objective)
    for name in sorted(found.keys() ^ wanted.keys()):
        raise InputError(f"{path}: {'unexpected' if name in found else 'missing'} weight {name}")
    for name, value in found.items():
        if value.shape != wanted[name].shape or not value.isfinite().all():
            raise InputError(
                f"{path}: {name} is damaged: numbers of shape {tuple(wanted[name].shape)} are needed"
            )
    for part, module in own_parts(denoiser, objective).items():
        prefix = f"{OBJECTIVE_PREFIX}{part}."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
        )
