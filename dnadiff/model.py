"""Defines `Model`: a trained denoiser with its objective, to save, sample, score and embed with."""

from __future__ import annotations

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
from dnadiff.backbones.published import load_pretrained
from dnadiff.backbones.weights import find_weights, read_tensors
from dnadiff.diffusion import Objective, make_objective, name_of
from dnadiff.digest import sha256_of_bytes
from dnadiff.errors import InputError, UsageError
from dnadiff.files import read_json, resource
from dnadiff.genome.sequences import Sequences, read_sequences
from dnadiff.sampling import SamplerConfig, check_fasta_path, resumable_fasta
from dnadiff.sampling.generation import Generation, GenerationOptions

DEFAULT = "default"
"""Name of the model that ships with dnadiff, for `load`."""

_TOKENS_PER_BATCH = 32_768  # tokens in one call of the network


class Model:
    """A trained denoiser with its objective; made by `load` or by training.

    Attributes:
        denoiser: the network, in evaluation mode.
        objective: what it was trained with.
        about: what it was trained on: window (bases), steps, genomes and their splits.
    """

    def __init__(
        self, denoiser: LMDenoiser, objective: Objective, about: Mapping[str, Any] | None = None
    ) -> None:
        self.denoiser = denoiser.eval()
        self.objective = objective.eval()
        self.about = dict(about or {})

    @property
    def alphabet(self) -> Alphabet:
        """The alphabet of its sequences."""
        return self.objective.alphabet

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.denoiser.parameters()).device

    @property
    def params(self) -> int:
        """Number of trainable parameters."""
        modules = (self.denoiser, self.objective)
        return sum(p.numel() for module in modules for p in module.parameters())

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of a SHA-256 over all weights and their names."""
        weights = self.denoiser.state_dict() | own_state(self.denoiser, self.objective)
        parts = (
            name.encode() + weight.detach().cpu().contiguous().numpy().tobytes()
            for name, weight in sorted(weights.items())
        )
        return sha256_of_bytes(parts)[:12]

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes config.json and model.safetensors into `folder`.

        Caduceus and Mamba are written in the published format.

        Args:
            folder: created if absent.
            dtype: how weights are stored; they are computed with in float32.

        Raises:
            InputError: if the folder cannot be written.
        """
        about = {
            "objective": name_of(self.objective),
            "objective_options": self.objective.options,
            "needs_sigma": self.denoiser.needs_sigma,
            "labels": list(self.denoiser.labels),
            "memory": self.denoiser.memory is not None,
            **self.about,
        }
        # The backbone keeps its published names; everything else gets names with a prefix.
        own = own_state(self.denoiser, self.objective)
        self.denoiser.lm.save_pretrained(folder, about, own, dtype)

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
        drawn is kept in `path`.part until all sequences are drawn; the same call continues it.

        Args:
            path: a file that does not exist yet, or "-" for stdout.
            num: how many, of each template.
            progress: called with (sequences done, all).
            options: see `generate`.

        Raises:
            InputError: if the file exists or cannot be written, or as for `generate`.
            UsageError: see `generate`.
        """
        # Refused here, before templates are read and the sampler is resolved.
        check_fasta_path(path)
        generation = self._generation(num, options)
        with resumable_fasta(path, generation.headers(self.digest)) as (done, write):
            # `count` is the number of records that are written already.
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
        # "auto" draws longer sequences in windows of the training length.
        trained_window = self.about.get("window")
        return Generation(
            self.denoiser, self.objective, num, trained_window=trained_window, **options
        )

    def score(self, sequences: Sequences, *, draws: int = 8, seed: int = 0) -> pd.DataFrame:
        """Returns a bound on the negative log-likelihood of each sequence.

        Args:
            sequences: of any lengths, as `dnadiff.genome.sequences.read_sequences` takes them; N is
                context and is not scored.
            draws: network calls for each sequence.
            seed: of the estimate.

        Returns:
            A table with a row for each sequence, in the given order, and the columns name, length
            (bases), nats, nats_per_base, ppl, and se (nats, over the draws). Its index is that of
            `sequences` if they are a Series.

        Raises:
            InputError: naming the sequence that cannot be read.
            UsageError: if `sequences` is one sequence or of a type that has no order.
        """
        given = read_sequences(sequences)
        rows = np.full((len(given), 3), np.nan)
        for index, tokens in self._batches(given.texts):
            # Random numbers depend on the position in `sequences`, so batches do not change them.
            numbers = torch.tensor(index, device=self.device)
            bound = self.objective.bound(
                self.denoiser, tokens, draws=draws, seed=seed, index=numbers
            )
            rows[index] = torch.stack([bound.nats, bound.se, bound.bases.double()], 1).cpu().numpy()

        nats, se, bases = rows.T
        # A sequence of N alone has no base to divide by.
        per_base = np.divide(nats, bases, out=np.full(len(given), np.nan), where=bases > 0)
        columns = {
            "name": given.names,
            "length": [len(text) for text in given.texts],
            "nats": nats,
            "nats_per_base": per_base,
            "ppl": np.exp(per_base),
            "se": se,
        }
        return pd.DataFrame(columns, index=given.index)

    @torch.no_grad()
    def embed(
        self,
        sequences: Sequences,
        *,
        pooling: str = "mean",
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Returns embeddings: the last hidden states, averaged over bases and over both strands.

        A sequence and its reverse complement have the same embedding. Sequences are never padded,
        so an embedding does not depend on the other sequences of its batch.

        Args:
            sequences: of any lengths, as `dnadiff.genome.sequences.read_sequences` takes them.
            pooling: "mean".
            progress: called with (sequences done, all).

        Returns:
            (n, d_model) float32, in the order of `sequences`.

        Raises:
            InputError: naming the sequence that cannot be read.
            UsageError: if `sequences` is one sequence or of a type that has no order, or `pooling`
                is unknown.
        """
        if pooling != "mean":
            raise UsageError(f"unknown pooling {pooling!r}; there is mean")
        texts = read_sequences(sequences).texts
        out = np.empty((len(texts), self.denoiser.lm.config.d_model), np.float32)
        done = 0
        for index, tokens in self._batches(texts):
            out[index] = self.denoiser.pooled(tokens).float().cpu().numpy()
            done += len(index)
            if progress is not None:
                progress(done, len(texts))
        return out

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
        """Yields positions in `texts` and tokens (B, L) of batches of sequences of one length."""
        # Only sequences of one length share a batch, so that none has to be padded.
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for i, text in enumerate(texts):
            by_length[len(text)].append(i)

        # The batch shrinks as sequences get longer, so that memory stays bounded.
        for length, places in sorted(by_length.items()):
            size = max(1, _TOKENS_PER_BATCH // length)
            for start in range(0, len(places), size):
                chunk = places[start : start + size]
                tokens = np.stack([self._encode(texts[i], i) for i in chunk])
                yield chunk, torch.from_numpy(tokens).to(self.device)

    def _encode(self, text: str, place: int) -> np.ndarray:
        """Returns token ids (L,) of the sequence at a position; errors count positions from 1."""
        try:
            return self.alphabet.encode(text)
        except ValueError as error:
            raise InputError(f"sequence {place + 1}: {error}") from error


def shipped_model() -> Path:
    """Returns the folder of the model that ships with dnadiff.

    Raises:
        InputError: if this copy of dnadiff was built without it.
    """
    return resource("data", DEFAULT)


def load(path: str | Path, device: str | None = None) -> Model:
    """Returns the model of a run folder or a model folder.

    A published Caduceus is read as a masked-diffusion model.

    Args:
        path: a folder with config.json and weights, a run folder with such a folder named model,
            hf:OWNER/NAME[@REVISION] (see `dnadiff.backbones.hub`), or "default", the model that
            ships with dnadiff, unless there is a folder of this name.
        device: where to put it; a GPU if there is one, by default.

    Raises:
        InputError: naming what is missing or wrong if it is not a model, or if it is a run that has
            not finished.
    """
    # A folder of the user's that happens to be called "default" comes first.
    folder = shipped_model() if str(path) == DEFAULT and not Path(path).exists() else None
    folder = folder or local_folder(path)
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        if (folder / "config.yaml").is_file():
            raise InputError(
                f"{path}: this run has not finished, so it has no model yet; go on with it: "
                f"dnadiff pretrain --resume {path}"
            )
        raise InputError(
            f"{path}: not a model: there is no config.json in it (give a run folder or its model "
            "folder)"
        )

    # The section "dnadiff" of config.json holds what the published format has no fields for. A
    # published checkpoint has no such section, and is read as an MDLM without conditioning.
    lm = load_pretrained(folder)
    about = dict(read_json(folder / "config.json").get("dnadiff") or {})
    try:
        objective = make_objective(
            about.pop("objective", "mdlm"), about.pop("objective_options", None)
        )
    except UsageError as error:
        raise InputError(f"{folder}/config.json: {error}") from error
    labels = about.pop("labels", [])
    switches = {name: about.pop(name, False) for name in ("needs_sigma", "memory")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InputError(
                f"{folder}/config.json: {name} cannot be {value!r}; true or false is needed"
            )
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InputError(
            f"{folder}/config.json: labels cannot be {labels!r}; a list of names is needed"
        )

    denoiser = LMDenoiser(
        lm,
        labels=tuple(labels),
        outputs=objective.outputs,
        self_conditioned=objective.self_conditioned,
        **switches,
    )
    load_own_state(folder, denoiser, objective)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Model(denoiser.to(device), objective.to(device), about)


def own_parts(denoiser: LMDenoiser, objective: Objective) -> dict[str, nn.Module]:
    """Returns the modules that the published format has no field for, by the name of the part."""
    parts = {
        "conditioning": denoiser.conditioning,
        "self_cond": denoiser.self_cond,
        "memory": denoiser.memory,
        "objective": objective,
    }
    return {name: module for name, module in parts.items() if module is not None}


def own_state(denoiser: LMDenoiser, objective: Objective) -> dict[str, Tensor]:
    """Returns the weights of `own_parts`, under names that begin with "dnadiff."."""
    return {
        f"{OBJECTIVE_PREFIX}{part}.{name}": value.detach().cpu().contiguous()
        for part, module in own_parts(denoiser, objective).items()
        for name, value in module.state_dict().items()
    }


def load_own_state(folder: Path, denoiser: LMDenoiser, objective: Objective) -> None:
    """Loads the weights that `own_state` wrote.

    Raises:
        InputError: naming the file and the weight, if one is missing, unexpected or damaged.
    """
    path = find_weights(folder)
    found = {
        name: value
        for name, value in read_tensors(path).items()
        if name.startswith(OBJECTIVE_PREFIX)
    }
    wanted = own_state(denoiser, objective)
    # The symmetric difference: names in only one of the two.
    for name in sorted(found.keys() ^ wanted.keys()):
        fault = "unexpected" if name in found else "missing"
        raise InputError(f"{path}: {fault} weight {name}")
    for name, value in found.items():
        if value.shape != wanted[name].shape or not value.isfinite().all():
            raise InputError(
                f"{path}: {name} is damaged: finite numbers of shape {tuple(wanted[name].shape)} "
                "are needed"
            )

    # All weights have been checked, so a damaged file leaves no module half loaded.
    for part, module in own_parts(denoiser, objective).items():
        prefix = f"{OBJECTIVE_PREFIX}{part}."
        state = {
            name.removeprefix(prefix): value
            for name, value in found.items()
            if name.startswith(prefix)
        }
        module.load_state_dict(state)
