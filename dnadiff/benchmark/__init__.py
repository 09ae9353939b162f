"""Tasks, protocols, probes, baselines and result tables."""
