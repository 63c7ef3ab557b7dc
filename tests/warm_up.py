"""Compile the searches, before two test workers do it side by side and time limits count it."""

from fractions import Fraction

import numpy as np
import torch

from eplb_opt import Instance, Topology, solve
from heuristics.refined import refined
from heuristics.steps import dispatch_aware, robust
from solvers.migration import fewest_transfers
from solvers.options import SearchOptions
from solvers.tree_search.steps import rehearse_counts, rehearse_sets

WORK = SearchOptions(work_limit=3_000_000)


def main() -> None:
    loads = np.random.default_rng(3).integers(1, 5000, 24)
    layer = Instance([loads], Topology(32, 8)).layer(0)
    for stage in ("joint", "packing"):
        solve(layer, stage=stage, backend="search", search=WORK)
    start = [i % 24 for i in range(32)]
    rehearse_counts()
    rehearse_sets()
    for place in (dispatch_aware, robust):
        place(torch.ones(2, 1, 4), 6, 1, 1, 2, effort="fast")
    refined(torch.ones(1, 4), 8, 2, 2, 4, traffic=0.5)
    fewest_transfers(layer, start, Fraction(int(loads.sum()), 8) * Fraction(11, 10), search=WORK)


if __name__ == "__main__":
    main()
