"""Objectives: how to corrupt, what to minimise, and what bound on the log-likelihood is certified."""
