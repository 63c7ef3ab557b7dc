"""Production heuristics for expert placement: torch, batched over layers, on any device."""

from heuristics.policies import POLICIES, rebalance_experts

__all__ = ["POLICIES", "rebalance_experts"]
