"""Lightning module, optimiser, EMA, checkpoints and exact resume."""
