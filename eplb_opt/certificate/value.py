"""What a placement costs, computed again: a second implementation, on a budget.

``even`` is shares of 1 / c_e, and ``fixed`` comes with its shares: rank loads are sums of shares
times loads. Under ``optimal`` dispatch the makespan of a step is, by max-flow min-cut,

    max over sets U of ranks of  w{e : all ranks of e are in U} / |U|:

over all sets where ranks are few, else by flows (:mod:`eplb_opt.certificate.flows`). Under a limit
of traffic it is a flow of least cost (:mod:`eplb_opt.certificate.limited`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.certificate.budget import CheckBudget, product_cost
from eplb_opt.certificate.flows import Flows
from eplb_opt.certificate.limited import is_limited, limited_makespans, masks_off_home
from eplb_opt.certificate.problem import cost_over, fitting, integers
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.evidence import Cuts, LimitedCuts, Prices
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Objective
from eplb_opt.problem.rationals import Integers, shown

FEW_RANKS = 10
"""Ranks up to which all sets of them are looked at."""
CHUNK = 2**20
"""Entries of a table of sets."""
AT_ONCE = 64
"""Operations of numpy on integers of 64 bits that cost a unit."""


def even_shares(phy2log: Sequence[int]) -> list[Fraction]:
    """[P] parts that the slots serve of their experts' tokens under even dispatch."""
    counts = Counter(phy2log)
    return [Fraction(1, counts[expert]) for expert in phy2log]


def require_whole(phy2log: Sequence[int], shares: Sequence[Fraction], budget: CheckBudget) -> None:
    """That the shares of every expert sum to 1.

    Raises:
        CertificateError: they do not.
    """
    if len(shares) != len(phy2log):
        raise CertificateError(f"{len(shares)} shares of {len(phy2log)} slots")
    parts, unit = integers(shares, budget)
    sums: Counter[int] = Counter()
    for expert, part in zip(phy2log, parts, strict=True):
        sums[expert] += part
    for expert, total in sums.items():
        if total != unit.denominator:
            raise CertificateError(f"the shares of expert {expert} do not sum to 1")


def cost_of_shares(
    layer: Layer,
    phy2log: Sequence[int],
    shares: Sequence[Fraction],
    objective: Objective,
    budget: CheckBudget,
) -> Fraction:
    """What the placement costs in tokens with ``shares`` [P] at every step."""
    parts, unit = integers(shares, budget)
    loads = objective.loads_of(layer)
    slots = layer.topology.slots_per_rank
    loads, cost = _fitting(loads, len(phy2log) * max(1, *parts), max(parts).bit_length())
    budget.charge(loads.size + len(phy2log) * (3 + len(loads) * cost // AT_ONCE))
    rank: NDArray[Any] = np.zeros((layer.topology.num_ranks, len(loads)), dtype=loads.dtype)
    for slot, (expert, part) in enumerate(zip(phy2log, parts, strict=True)):
        rank[slot // slots] += loads[:, expert] * part
    makespans = [Fraction(int(most)) for most in rank.max(axis=0)]
    return cost_over(objective, makespans, budget) * layer.unit * unit


def best_cost(
    layer: Layer,
    phy2log: Sequence[int],
    objective: Objective,
    cuts: Cuts | LimitedCuts | None,
    budget: CheckBudget,
) -> Fraction:
    """What the placement costs in tokens under optimal dispatch.

    Raises:
        CertificateError: ``cuts`` do not show that it costs as much.
    """
    loads, ranks = objective.loads_of(layer), layer.topology.num_ranks
    held = rank_masks(layer, phy2log, budget)
    if is_limited(layer):
        limited = cuts if isinstance(cuts, LimitedCuts) else None
        off_home = masks_off_home(layer, phy2log, budget)
        found = limited_makespans(layer, held, off_home, loads, limited, budget)
        return cost_over(objective, found, budget) * layer.unit
    if isinstance(cuts, LimitedCuts):
        raise CertificateError("cuts under a limit of traffic, and there is none")
    least = None if cuts is None else cut_makespans(loads, held, cuts, ranks, budget)
    if ranks <= FEW_RANKS:
        makespans = _over_sets(loads, held, ranks, budget)
    else:
        makespans = Flows(held, ranks, budget).makespans(loads, least)
    if least is not None and least != makespans:
        t = next(t for t, pair in enumerate(zip(least, makespans, strict=True)) if len({*pair}) > 1)
        raise CertificateError(f"the ranks of cut {t} do not have the makespan of their step")
    return cost_over(objective, makespans, budget) * layer.unit


def least_cost(
    layer: Layer,
    phy2log: Sequence[int],
    objective: Objective,
    evidence: Cuts | Prices,
    budget: CheckBudget,
) -> Fraction:
    """No shares of the placement cost less, in tokens; shares of each step for itself cost even
    less.
    """
    if isinstance(evidence, Prices):
        return cost_at_prices(layer, phy2log, objective, evidence, budget)
    held, ranks = rank_masks(layer, phy2log, budget), layer.topology.num_ranks
    makespans = cut_makespans(objective.loads_of(layer), held, evidence, ranks, budget)
    return cost_over(objective, makespans, budget) * layer.unit


def rank_masks(layer: Layer, phy2log: Sequence[int], budget: CheckBudget) -> list[int]:
    """[E] the ranks that hold each expert, rank g as bit g."""
    budget.charge(len(phy2log) * (1 + layer.topology.num_ranks // 4096))
    held = [0] * len(layer.loads)
    for slot, expert in enumerate(phy2log):
        held[expert] |= 1 << slot // layer.topology.slots_per_rank
    return held


def cut_makespans(
    loads: Integers, held: Sequence[int], cuts: Cuts, num_ranks: int, budget: CheckBudget
) -> list[Fraction]:
    """[T] no makespan is less: the tokens of the experts inside a set of ranks, over its size.

    Raises:
        CertificateError: there are not T sets of ranks.
    """
    if len(cuts.ranks) != len(loads):
        raise CertificateError(f"{len(cuts.ranks)} cuts of {len(loads)} steps")
    experts, found = len(held), []
    loads, cost = _fitting(loads, experts, 1)
    for t, ranks in enumerate(cuts.ranks):
        budget.charge(1 + len(ranks) // 8 + experts * (1 + num_ranks // 4096 + cost // 8) // 4)
        if any(not 0 <= g < num_ranks for g in ranks) or len(set(ranks)) < len(ranks):
            raise CertificateError(f"cut {t} is no set of ranks")
        outside = ~sum(1 << g for g in ranks)
        inside = [e for e, mask in enumerate(held) if not mask & outside]
        found.append(Fraction(int(loads[t, inside].sum()), max(1, len(ranks))))
    return found


def cost_at_prices(
    layer: Layer, phy2log: Sequence[int], objective: Objective, found: Prices, budget: CheckBudget
) -> Fraction:
    """No shares make the placement cost less, in tokens: every token takes its cheapest rank. Under
    a limit of traffic it pays for being off home, besides, and what the limit allows is free.

    Raises:
        CertificateError: the prices are none that the objective admits, or prove less than said.
    """
    loads, ranks = objective.loads_of(layer), layer.topology.num_ranks
    if len(found.prices) != len(loads) or any(len(row) != ranks for row in found.prices):
        raise CertificateError(f"prices are not {len(loads)} lists of {ranks} integers")
    largest = max(max(row) for row in found.prices)
    if found.scale < 1 or min(min(row) for row in found.prices) < 0:
        raise CertificateError("prices must not be negative, and scale must be positive")
    bits = max(x.bit_length() for x in (largest, found.scale, found.traffic_price))
    loads, cost = _fitting(loads, len(loads) * max(1, largest), bits)
    budget.charge(len(loads) * (ranks * (1 + bits // 4096) // 4 + 4 * product_cost(bits, bits)))
    if found.traffic_price < 0 or (found.traffic_price and not is_limited(layer)):
        raise CertificateError("traffic_price is negative, or there is no limit of traffic")
    if not objective.admits([Fraction(sum(row), found.scale) for row in found.prices]):
        raise CertificateError("the prices do not sum to weights that the objective has")
    held = sorted({(e, p // layer.topology.slots_per_rank) for p, e in enumerate(phy2log)})
    budget.charge(loads.size + len(held) * (4 + len(loads) * cost // AT_ONCE))
    prices: NDArray[Any] = np.array(found.prices, dtype=loads.dtype)
    of_traffic, off_home = found.traffic_price, [0] * len(layer.loads)
    if of_traffic:
        off_home = masks_off_home(layer, phy2log, budget)
    least: dict[int, int] = {}
    for expert, rank in held:
        paid = int((loads[:, expert] * prices[:, rank]).sum())
        if off_home[expert] >> rank & 1:
            paid += of_traffic * int(loads[:, expert].astype(object).sum())
        least[expert] = min(paid, least.get(expert, paid))
    free = of_traffic * layer.traffic_limit * sum(layer.loads)
    proven = (sum(least.values()) - free) / Fraction(found.scale) * layer.unit
    if proven < found.bound:
        raise CertificateError(f"prices prove {shown(proven)}, not {shown(found.bound)}")
    return proven


def _over_sets(
    loads: Integers, held: Sequence[int], num_ranks: int, budget: CheckBudget
) -> list[Fraction]:
    """[T] makespans in the unit of the loads: the best of all sets of ranks."""
    common, sets = math.lcm(*range(1, num_ranks + 1)), 1 << num_ranks
    size = np.array([u.bit_count() for u in range(sets)])
    loads, cost = _fitting(loads, len(held) * common, common.bit_length())
    budget.charge(sets + len(held) + loads.size * cost // AT_ONCE)
    budget.charge((num_ranks + 2) * sets * (1 + len(loads) * cost // AT_ONCE))
    factor: Any = np.array([0, *(common // k for k in range(1, num_ranks + 1))])[size]
    found: list[Fraction] = []
    for start in range(0, len(loads), max(1, CHUNK // sets)):
        part = loads[start : start + max(1, CHUNK // sets)]
        inside: NDArray[Any] = np.zeros((len(part), sets), dtype=loads.dtype)
        for expert, mask in enumerate(held):
            inside[:, mask] += part[:, expert]
        for g in range(num_ranks):  # with what is inside without rank g
            pairs = inside.reshape(len(part), -1, 2, 1 << g)
            pairs[:, :, 1] += pairs[:, :, 0]
        inside *= factor
        found += [Fraction(int(most), common) for most in inside.max(axis=1)]
    return found


def _fitting(loads: Integers, terms: int, bits: int) -> tuple[Integers, int]:
    """Integers long enough for sums of ``terms`` of them, and what they cost: 1 if 64 bits do, else
    that of products with integers of ``bits``.
    """
    fitted = fitting(loads, terms)
    if fitted.dtype != object:
        return fitted, 1
    longest = int(loads.max(initial=0)).bit_length()
    return fitted, AT_ONCE // 4 * product_cost(longest, bits + 64)
