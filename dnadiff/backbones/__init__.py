"""Backbones map token ids to hidden states.

One file per architecture, and published checkpoints.
"""

from dnadiff.backbones.classifier import CaduceusClassifier, load_classifier
from dnadiff.backbones.published import load_pretrained

__all__ = ["CaduceusClassifier", "load_classifier", "load_pretrained"]
