"""Token ids to hidden states: one file per architecture, and published checkpoints in and out."""

from dnadiff.backbones.classifier import CaduceusClassifier, load_classifier
from dnadiff.backbones.published import load_pretrained, save_pretrained

__all__ = ["CaduceusClassifier", "load_classifier", "load_pretrained", "save_pretrained"]
