"""A flow of least cost: experts send their load to their ranks, which have room for all
of it, with as few tokens off home as possible.

Shortest paths one after another (Jewell 1958; Edmonds and Karp, J. ACM 19 (1972) 248): of those
with the fewest tokens off home the one of fewest arcs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from solvers.arrays import Integers
from solvers.compiled import compiled

Numbers = Integers | list[int]

FAR = 2**60
"""Of what is not reached."""
START = -1


def send_cheapest(
    left: Numbers,
    space: Numbers,
    flow: Numbers,
    of_expert: Numbers,
    of_rank: Numbers,
    away: Numbers,
    prices: Numbers,
) -> bool:
    """Send all load to ranks with space; False if not all of it fits.

    The body as it is, on lists of Python's integers, is exact where 64 bits are too short.

    Args:
        left: [n] load of each expert that is not sent yet; changed in place.
        space: [G] load that each rank can still take; changed in place.
        flow: [pairs] load that goes from expert to rank, at first 0; changed in place.
        of_expert: [pairs] expert of each pair.
        of_rank: [pairs] rank of each pair.
        away: [pairs] 1 if the rank is off the expert's home, else 0.
        prices: [G] int64, result: tokens off home that one more token of room on the rank saves.
    """
    num_experts, num_ranks = len(left), len(space)
    away_cost = 2 * (num_experts + num_ranks)  # more than all arcs of a path
    to_expert, to_rank = [FAR] * num_experts, [FAR] * num_ranks
    via_expert, via_rank = [START] * num_experts, [START] * num_ranks
    while True:
        waiting = False
        for e in range(num_experts):
            to_expert[e] = FAR
            if left[e] > 0:
                to_expert[e] = 0
                via_expert[e] = START
                waiting = True
        for g in range(num_ranks):
            to_rank[g] = FAR
        if not waiting:  # what room on a rank would save: paths from ranks that give some up
            for pair in range(len(of_rank)):
                if flow[pair] > 0:
                    to_rank[of_rank[pair]] = 0
        closer = True
        while closer:
            closer = False
            for pair in range(len(of_expert)):
                e, g = of_expert[pair], of_rank[pair]
                step = away[pair] * away_cost
                if to_expert[e] < FAR and to_expert[e] + step + 1 < to_rank[g]:
                    to_rank[g] = to_expert[e] + step + 1
                    via_rank[g] = pair
                    closer = True
                reached = flow[pair] > 0 and to_rank[g] < FAR
                if reached and to_rank[g] - step + 1 < to_expert[e]:
                    to_expert[e] = to_rank[g] - step + 1
                    via_expert[e] = pair
                    closer = True
        if not waiting:
            for g in range(num_ranks):
                prices[g] = max(0, -(to_rank[g] // away_cost))
            return True
        end = -1
        for g in range(num_ranks):
            if space[g] > 0 and to_rank[g] < FAR and (end < 0 or to_rank[g] < to_rank[end]):
                end = g
        if end < 0:
            return False
        amount, pair = space[end], via_rank[end]
        while via_expert[of_expert[pair]] != START:
            back = via_expert[of_expert[pair]]
            amount = min(amount, flow[back])
            pair = via_rank[of_rank[back]]
        amount = min(amount, left[of_expert[pair]])
        left[of_expert[pair]] -= amount
        space[end] -= amount
        pair = via_rank[end]
        flow[pair] += amount
        while via_expert[of_expert[pair]] != START:
            back = via_expert[of_expert[pair]]
            flow[back] -= amount
            pair = via_rank[of_rank[back]]
            flow[pair] += amount


@cache
def compiled_send_cheapest() -> Any:
    """Loads numba."""
    return compiled(send_cheapest)
