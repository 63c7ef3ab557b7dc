"""What a placement costs under a dispatch rule, and how its tokens are shared best."""

from solvers.dispatch.costs import traffic, value, value_evidence
from solvers.dispatch.limited import best_shares
from solvers.dispatch.shares import BestShares

__all__ = ["BestShares", "best_shares", "traffic", "value", "value_evidence"]
