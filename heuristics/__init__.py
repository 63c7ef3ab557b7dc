"""Production heuristics for expert placement: torch, batched over layers, on any device."""
