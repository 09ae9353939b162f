"""From a trained denoiser to sequences: one file per sampler."""
