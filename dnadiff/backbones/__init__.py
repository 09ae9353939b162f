"""Backbones: networks that map token ids to hidden states, and their checkpoints.

Each architecture has its own module.
"""

from dnadiff.backbones.classifier import CaduceusClassifier, load_classifier
from dnadiff.backbones.published import load_pretrained

__all__ = ["CaduceusClassifier", "load_classifier", "load_pretrained"]
