"""What a trained model has learned: likelihood bounds, variant effects, sample quality."""
