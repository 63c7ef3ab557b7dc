"""Constructions that a search for steps starts from, and is never behind."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from heuristics.graphs import GRAPHS, GraphPolicy
from heuristics.grouping import by_total
from heuristics.packing import by_load, lpt
from heuristics.pipeline import Pipeline
from heuristics.refined import refined
from heuristics.replication import greedy_replicas

BASELINE = Pipeline(by_total(lpt), greedy_replicas, by_load(lpt))
"""The field's baseline, as in ``heuristics.policies.deepseek``."""


def starts(weight: Tensor, *sizes: int) -> dict[str, Tensor]:
    """Placements [L, P] by name, from summed loads [L, E] and sizes as of ``rebalance_experts``.

    Graphs only where they have such a number of slots.
    """
    found = {"deepseek": BASELINE(weight, *sizes), "refined": refined(weight, *sizes)}
    for name, graph in GRAPHS.items():
        with suppress(ValueError):
            found[name] = GraphPolicy(name, graph)(weight, *sizes)
    return found
