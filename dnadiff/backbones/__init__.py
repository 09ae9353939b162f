"""Token ids to hidden states: one file per architecture, and published checkpoints in and out."""
