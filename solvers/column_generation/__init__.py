"""Lower bounds from rank patterns, with replica counts left free, and the evidence for them."""

from solvers.column_generation.pattern_bound import PatternBound, pattern_bound

__all__ = ["PatternBound", "pattern_bound"]
