"""Objectives: how to corrupt, what to minimise, and what bound on the log-likelihood is certified."""

from dnadiff.diffusion.corpus import CorpusBound, corpus_bound, summarise
from dnadiff.diffusion.mdlm import MDLM
from dnadiff.diffusion.objective import Bound, Denoiser, Loss, Objective

OBJECTIVES: dict[str, type[Objective]] = {"mdlm": MDLM}

__all__ = ["MDLM", "OBJECTIVES", "Bound", "CorpusBound", "Denoiser", "Loss", "Objective", "corpus_bound", "summarise"]
