"""Good placements fast: heuristics with no guarantee, for use as incumbents of the exact methods."""
