"""What a placement costs under a dispatch rule, and how its tokens are shared best."""

from solvers.dispatch.costs import value, value_evidence
from solvers.dispatch.shares import BestShares, best_shares

__all__ = ["BestShares", "best_shares", "value", "value_evidence"]
