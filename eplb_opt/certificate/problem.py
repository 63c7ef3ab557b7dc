"""The problem in a certificate: the machine, the cost, and the loads of a layer or of its steps."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError, product_cost
from eplb_opt.certificate.parsing import parse_exact
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import SUM, Cost, Dispatch, Objective
from eplb_opt.problem.rationals import Integers, integer_array, shown, widen
from eplb_opt.problem.topology import Rule, Topology

TOPOLOGY_FIELDS = ("num_physical_experts", "num_ranks", "num_nodes", "num_groups")
LARGEST_SIZE = 100_000
"""Experts or slots beyond which nothing is checked."""
LARGEST_BITS = 2**31
"""Of all loads of a layer together, over their common denominator."""
DECIMAL = re.compile("0[.][0-9]{1,9}")


def parse_cost(machine: dict[str, Any], budget: CheckBudget) -> Cost:
    """What is minimized; the sum under even dispatch where a document of old does not say it.

    Raises:
        CertificateError: there is no such objective or dispatch.
    """
    name, dispatch = machine.get("objective", "sum"), machine.get("dispatch", "even")
    if dispatch not in list(Dispatch):
        raise CertificateError(f"dispatch={shown(dispatch)!r} is not one of {', '.join(Dispatch)}")
    word, colon, share = name.partition(":") if isinstance(name, str) else ("", "", "")
    if (word, colon) not in (("sum", ""), ("mean", ""), ("worst", ""), ("cvar", ":")):
        raise CertificateError(
            f"objective={shown(name)!r} is not one of sum, mean, worst, cvar:SHARE"
        )
    part = _parse_share(share, budget) if colon else Fraction(1)
    if not 0 < part <= 1:
        raise CertificateError(f"objective={shown(name)!r}: the share is not in (0, 1]")
    return Cost(Objective(word, part), Dispatch(dispatch))


def _parse_share(share: str, budget: CheckBudget) -> Fraction:
    """A short decimal, or a ratio."""
    if DECIMAL.fullmatch(share):
        return Fraction(share)
    return parse_exact(share, "the share of objective", budget)


def parse_layer(
    machine: dict[str, Any], entry: dict[str, Any], cost: Cost, budget: CheckBudget
) -> Layer:
    """The problem of one layer, with its loads over their common denominator.

    Raises:
        CertificateError: it is malformed, or has no placement.
        TooLargeToCheckError: the budget does not suffice to read it.
    """
    topology, rule, spread = _topology(machine)
    rows = _rows(machine, entry, cost, budget)
    experts = len(rows[0])
    if not 0 < experts <= topology.num_physical_experts:
        raise CertificateError(f"{experts} experts do not fit the slots")
    groups, nodes = topology.num_groups, topology.num_nodes
    if rule != Rule.GLOBAL and (groups % nodes or experts % groups):
        raise CertificateError("the groups do not divide among nodes or experts")
    limit = _traffic_limit(machine, rule, budget)
    listed, unit = integers([load for row in rows for load in row], budget)
    budget.charge(len(listed) // 8 * (1 + unit.denominator.bit_length() // 4096))
    steps = [listed[i : i + experts] for i in range(0, len(listed), experts)]
    loads = steps[0] if len(steps) == 1 else tuple(map(sum, zip(*steps, strict=True)))
    listed_steps = integer_array(steps)
    layer = Layer(loads, unit, topology, rule, entry["layer"], spread, listed_steps, limit)
    if not layer.is_feasible:
        raise CertificateError("no placement exists: spread_replicas leaves slots empty")
    return layer


def _rows(
    machine: dict[str, Any], entry: dict[str, Any], cost: Cost, budget: CheckBudget
) -> list[list[Fraction]]:
    """[T, E] tokens: the steps, or for ``sum`` the loads as one step."""
    experts, number = machine.get("num_logical_experts"), machine.get("num_steps")
    name = "loads" if cost.objective == SUM else "steps"
    if cost.objective != SUM and (type(number) is not int or number < 1):
        raise CertificateError(f"num_steps={shown(number)!r} is no number of steps")
    rows = [entry["loads"]] if cost.objective == SUM else entry["steps"]
    if not isinstance(rows, list) or len(rows) != (1 if cost.objective == SUM else number):
        raise CertificateError("steps is not a list of num_steps lists")
    if type(experts) is not int or any(not _has_length(row, experts) for row in rows):
        of = "" if cost.objective == SUM else "step of "
        raise CertificateError(f"{of}{name} is not a list of num_logical_experts numbers")
    return [[parse_exact(load, name, budget) for load in row] for row in rows]


def _has_length(row: Any, number: int) -> bool:
    return isinstance(row, list) and len(row) == number


def _topology(machine: dict[str, Any]) -> tuple[Topology, Rule, bool]:
    sizes: list[Any] = [machine.get(name) for name in TOPOLOGY_FIELDS]
    if any(type(size) is not int or size < 1 for size in sizes):
        raise CertificateError(f"{', '.join(TOPOLOGY_FIELDS)} must be positive integers")
    if max(sizes) > LARGEST_SIZE:
        raise TooLargeToCheckError(f"more than {LARGEST_SIZE:,} slots or groups")
    spread, rule = machine.get("spread_replicas"), machine.get("rule")
    if rule not in list(Rule) or type(spread) is not bool:
        raise CertificateError("rule or spread_replicas is missing or wrong")
    return Topology(*sizes), Rule(rule), spread


def _traffic_limit(machine: dict[str, Any], rule: Rule, budget: CheckBudget) -> Fraction:
    """The part of the tokens that may be served off home, exactly; without one 1, no limit.

    The float beside it is for reading, and must be that of the exact one.
    """
    exact = machine.get("traffic_limit_exact", "1")
    limit = parse_exact(exact, "traffic_limit_exact", budget)
    if limit > 1 or (limit < 1 and rule != Rule.HOME):
        raise CertificateError(
            f"traffic_limit_exact={shown(exact)!r} is no limit under the rule {str(rule)!r}"
        )
    near = machine.get("traffic_limit", float(limit))
    if type(near) not in (int, float) or near != float(limit):
        raise CertificateError(
            f"traffic_limit={shown(near)} is not that of traffic_limit_exact={shown(exact)!r}"
        )
    return limit


def integers(exact: Sequence[Fraction], budget: CheckBudget) -> tuple[tuple[int, ...], Fraction]:
    """Numbers as multiples of the unit that their least common denominator is one of.

    Raises:
        TooLargeToCheckError: they are too long over it.
    """
    common, longest = 1, max(load.numerator.bit_length() for load in exact)
    for denominator in {load.denominator for load in exact}:
        budget.charge(product_cost(common.bit_length(), denominator.bit_length()))
        common = math.lcm(common, denominator)
    bits = common.bit_length()
    if len(exact) * bits > LARGEST_BITS:
        raise TooLargeToCheckError("the numbers are too long over their common denominator")
    divisor = max(load.denominator.bit_length() for load in exact)
    budget.charge(len(exact) * (product_cost(bits, longest) + product_cost(bits, divisor)))
    listed = tuple(load.numerator * (common // load.denominator) for load in exact)
    return listed, Fraction(1, common)


def fitting(loads: Integers, terms: int) -> Integers:
    """The loads as integers long enough for sums of ``terms`` of them, and for ``terms``."""
    return widen(loads, terms) if terms < 2**63 else loads.astype(object)


def cost_over(objective: Objective, makespans: Sequence[Fraction], budget: CheckBudget) -> Fraction:
    """The objective of the makespans, in their unit.

    Raises:
        TooLargeToCheckError: it would take too long.
    """
    listed, unit = integers(makespans, budget)
    budget.charge(len(listed) * (2 + unit.denominator.bit_length() // 1024))
    return objective.over([Fraction(makespan) for makespan in listed]) * unit
