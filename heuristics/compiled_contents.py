"""The rounds of :mod:`heuristics.contents`, compiled; loading it loads numba."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heuristics.compiled import compiled

Array = NDArray[Any]


@compiled
def anneal_rounds(
    constants: tuple[int, int, int, int, int, int],
    heat: float,
    tokens: Array,
    by_load: Array,
    homes: Array,
    limit: Array,
    copies: Array,
    bests: Array,
    least: Array,
    slots: Array,
    places: Array,
    rises: Array,
) -> None:
    """Rounds of all rows, one row after the other.

    Args:
        constants: units in the mean node, weight of nodes, largest excess, ranks of a node,
            r times what a light replica has, and units off home that count as one.
        heat: the first temperature, in units.
        tokens: [B, E] of each expert, in units.
        by_load: [B, E] the experts, heaviest first.
        homes: [B, E] the node of each expert.
        limit: [B] units that may be served off home.
        copies: [B, N, F] the expert of each further copy; changed in place.
        bests: [B, N, F] the best until now; changed in place.
        least: [B] its value; changed in place.
        slots: [R, C] in [0, 1).
        places: [R, C] in [0, 1).
        rises: [R, C] that is allowed, over the first temperature.
    """
    units, weight, most, ranks_per_node, light, per_unit = constants
    num_experts, num_nodes, further = tokens.shape[1], copies.shape[1], copies.shape[2]
    for row in range(len(tokens)):
        load, home, held = tokens[row], homes[row], copies[row]
        on_nodes, counts, share, nodes = find_state(load, home, held)
        away, replicas = 0, 0
        for e in range(num_experts):
            away += (counts[e] - on_nodes[e, home[e]]) * share[e]
            replicas += square(share[e] * ranks_per_node - light, most)
        squares = replicas
        for n in range(num_nodes):
            squares += weight * square(nodes[n] - units, most)
        value = root(squares) + away // per_unit
        least[row] = min(least[row], value)
        for i in range(len(slots)):
            for j in range(slots.shape[1]):
                slot = int(slots[i, j] * (num_nodes * further))
                n, place = slot // further, places[i, j]
                a, b = held[n, slot % further], by_load[row, int(place * place * num_experts)]
                home_a, home_b = int(home[a] == n), int(home[b] == n)
                if a == b or on_nodes[a, home[a]] == home_a:
                    continue
                new_a = int(np.ceil(load[a] / (counts[a] - 1)))
                new_b = int(np.ceil(load[b] / (counts[b] + 1)))
                off_a, off_b = counts[a] - on_nodes[a, home[a]], counts[b] - on_nodes[b, home[b]]
                off = away + (off_a - 1 + home_a) * new_a - off_a * share[a]
                off += (off_b + 1 - home_b) * new_b - off_b * share[b]
                if off > limit[row] and off > away:
                    continue
                heavy = replicas
                heavy -= square(share[a] * ranks_per_node - light, most)
                heavy -= square(share[b] * ranks_per_node - light, most)
                heavy += square(new_a * ranks_per_node - light, most)
                heavy += square(new_b * ranks_per_node - light, most)
                squares = heavy
                for t in range(num_nodes):
                    now = nodes[t]
                    now += on_nodes[a, t] * (new_a - share[a]) + on_nodes[b, t] * (new_b - share[b])
                    if t == n:
                        now += new_b - new_a
                    squares += weight * square(now - units, most)
                if root(squares) + off // per_unit > value + int(rises[i, j] * heat):
                    continue
                nodes += on_nodes[a] * (new_a - share[a]) + on_nodes[b] * (new_b - share[b])
                nodes[n] += new_b - new_a
                counts[a] -= 1
                counts[b] += 1
                on_nodes[a, n] -= 1
                on_nodes[b, n] += 1
                share[a], share[b] = new_a, new_b
                held[n, slot % further] = b
                away, replicas, value = off, heavy, root(squares) + off // per_unit
                if value < least[row]:
                    least[row] = value
                    bests[row] = held
                break


@compiled
def find_state(load: Array, home: Array, held: Array) -> tuple[Array, Array, Array, Array]:
    """On_nodes [E, N] and counts [E] of copies, that at home included; share [E], units of a
    replica, rounded up; nodes [N], units.

    Args:
        load: [E] of each expert, in units.
        home: [E] the node of each expert.
        held: [N, F] the expert of each further copy.
    """
    num_experts, num_nodes = len(load), len(held)
    on_nodes = np.zeros((num_experts, num_nodes), np.int64)
    counts = np.ones(num_experts, np.int64)
    for e in range(num_experts):
        on_nodes[e, home[e]] = 1
    for n in range(num_nodes):
        for e in held[n]:
            on_nodes[e, n] += 1
            counts[e] += 1
    share = np.empty(num_experts, np.int64)
    nodes = np.zeros(num_nodes, np.int64)
    for e in range(num_experts):
        share[e] = int(np.ceil(load[e] / counts[e]))
        nodes += on_nodes[e] * share[e]
    return on_nodes, counts, share, nodes


@compiled
def square(excess: int, most: int) -> int:
    """Of what is above 0, in units; of ``most`` if it is more."""
    if excess <= 0:
        return 0
    return min(excess, most) ** 2


@compiled
def root(squares: int) -> int:
    """Without what is behind the point."""
    found = int(math.sqrt(float(squares)))
    if found**2 > squares:
        found -= 1
    if (found + 1) ** 2 <= squares:
        found += 1
    return found
