"""The four programs, and the names of their stages."""

from __future__ import annotations

from heuristics.exchange import exchange_for_peak, exchange_for_spread
from heuristics.grouping import by_total, swap_groups
from heuristics.packing import by_load, lpt, snake
from heuristics.pipeline import Counting, Pipeline, Placing
from heuristics.published.apportionment import (
    apportion_counts,
    fill_counts,
    huntington_hill_counts,
)
from heuristics.published.dealing import deal_diverse, deal_interleaved
from heuristics.published.swaps import refine_replicas
from heuristics.replication import greedy_replicas, in_order
from heuristics.swaps import swap_extremes

waterfill_diverse = Pipeline(
    by_total(lpt), in_order(fill_counts), deal_diverse, [exchange_for_peak]
)
"""Seed program 000."""

apportion_zigzag = Pipeline(
    by_total(snake), in_order(apportion_counts), deal_interleaved, [exchange_for_spread]
)
"""Seed program 001, valid where that returns a wrong number of slots."""

vectorized_swap = Pipeline(by_total(swap_groups), greedy_replicas, by_load(lpt), [swap_extremes])
"""Seed program 002."""

replica_refine = Pipeline(
    by_total(swap_groups), greedy_replicas, by_load(lpt), [swap_extremes, refine_replicas]
)
"""Seed program 004 on 002, never worse than ``vectorized_swap``."""

# These names are for comparison. With LPT and pair-resplit all counts rules end 0.03 % over the
# mean load at S = 5 and 0.10 to 0.12 % at S = 4 on 290 recorded layers of DeepSeek-V3, as greedy
# does; on zipf 1.1 at S = 4 Huntington-Hill ends at 17 %, greedy at 4.5 %.
COUNTS: dict[str, Counting] = {
    "huntington-hill": in_order(huntington_hill_counts),
    "apportioned": in_order(apportion_counts),
    "water-filling": in_order(fill_counts),
}
PACKINGS: dict[str, Placing] = {
    "interleaved-snake": deal_interleaved,
    "diverse": deal_diverse,
}
REFINEMENTS: dict[str, Placing] = {
    "swap-extremes": swap_extremes,
    "exchange-for-peak": exchange_for_peak,
    "exchange-for-spread": exchange_for_spread,
    "replica-move": refine_replicas,
}
