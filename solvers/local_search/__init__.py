"""Good placements fast: heuristics without guarantee, incumbents of the exact methods."""
