"""dnadiff: diffusion language models of DNA."""
