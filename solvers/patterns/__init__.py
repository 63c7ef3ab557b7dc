"""Lower bounds from rank patterns, with replica counts left free, and the evidence for them."""

from solvers.patterns.bound import PatternBound, pattern_bound
from solvers.patterns.check import certified_pattern_bound

__all__ = ["PatternBound", "certified_pattern_bound", "pattern_bound"]
