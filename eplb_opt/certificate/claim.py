"""What is claimed of one layer, checked but for the evidence: the loads, the machine, the counts
given, the placement and its value, and that the status follows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError, product_cost
from eplb_opt.certificate.closed_form import load_bits
from eplb_opt.certificate.parsing import parse_exact, parse_integers
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import rank_loads
from eplb_opt.problem.rationals import shown
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.validity import layer_violation

LAYER_FIELDS = {
    "layer", "loads", "stage", "phy2log", "counts", "objective_exact", "lower_bound_exact",
    "status", "evidence",
}  # fmt: skip
TOPOLOGY_FIELDS = ("num_physical_experts", "num_ranks", "num_nodes", "num_groups")
STAGES = ("joint", "packing")
LARGEST_SIZE = 100_000
"""Experts or slots beyond which nothing is checked."""
LARGEST_LOADS = 2**31
"""Bits of all loads over their common denominator."""
COUNT_BITS = 1024
"""The least common multiple of counts that sum to :data:`LARGEST_SIZE` is not longer."""


@dataclass(frozen=True)
class Claim:
    """That every placement of ``layer`` (with ``counts`` [E], if they are given) costs at least
    ``bound`` tokens; ``objective`` is the value of the best one known.
    """

    layer: Layer
    stage: str
    counts: tuple[int, ...] | None
    objective: Fraction | None
    bound: Fraction


def read_claim(machine: dict[str, Any], entry: dict[str, Any], budget: CheckBudget) -> Claim:
    """The claim in one layer of a document.

    Raises:
        CertificateError: it is malformed or not true.
        TooLargeToCheckError: the budget does not suffice to find out.
    """
    if set(entry) != LAYER_FIELDS:
        raise CertificateError(f"a layer has the fields {', '.join(sorted(LAYER_FIELDS))}")
    stage = entry["stage"]
    if stage not in STAGES:
        raise CertificateError(f"stage={shown(stage)!r} is not one of {', '.join(STAGES)}")
    layer = _layer(machine, entry, budget)
    counts = _counts(layer, entry["counts"], budget) if stage == "packing" else None
    if counts is None and entry["counts"] is not None:
        raise CertificateError("counts are given for the stage packing only")
    bound = parse_exact(entry["lower_bound_exact"], "lower_bound_exact", budget)
    objective = _objective(layer, entry, counts, budget)
    if _status(objective, bound) != entry["status"]:
        raise CertificateError(f"status={shown(entry['status'])!r} does not follow from the values")
    return Claim(layer, stage, counts, objective, bound)


def _layer(machine: dict[str, Any], entry: dict[str, Any], budget: CheckBudget) -> Layer:
    """The problem, with the loads over their common denominator."""
    loads, experts = entry["loads"], machine.get("num_logical_experts")
    topology, rule, spread = _topology(machine)
    if not isinstance(loads, list) or type(experts) is not int or len(loads) != experts:
        raise CertificateError("loads is not a list of num_logical_experts numbers")
    if not 0 < len(loads) <= topology.num_physical_experts:
        raise CertificateError(f"{len(loads)} experts do not fit the slots")
    groups, nodes = topology.num_groups, topology.num_nodes
    if rule == Rule.HIERARCHICAL and (groups % nodes or len(loads) % groups):
        raise CertificateError("the groups do not divide among nodes or experts")
    exact = [parse_exact(load, "loads", budget) for load in loads]
    integers, unit = _integers(exact, budget)
    layer = Layer(integers, unit, topology, rule, entry["layer"], spread)
    if not layer.is_feasible:
        raise CertificateError("no placement exists: spread_replicas leaves slots empty")
    return layer


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


def _integers(exact: Sequence[Fraction], budget: CheckBudget) -> tuple[tuple[int, ...], Fraction]:
    """The loads as multiples of a unit."""
    common, longest = 1, max(load.numerator.bit_length() for load in exact)
    for denominator in {load.denominator for load in exact}:
        budget.charge(product_cost(common.bit_length(), denominator.bit_length()))
        common = math.lcm(common, denominator)
    bits = common.bit_length()
    if len(exact) * bits > LARGEST_LOADS:
        raise TooLargeToCheckError("the loads are too long over their common denominator")
    divisor = max(load.denominator.bit_length() for load in exact)
    budget.charge(len(exact) * (product_cost(bits, longest) + product_cost(bits, divisor)))
    integers = tuple(load.numerator * (common // load.denominator) for load in exact)
    return integers, Fraction(1, common)


def _counts(layer: Layer, given: Any, budget: CheckBudget) -> tuple[int, ...]:
    """Those of a packing, which some placement must be able to have."""
    counts = parse_integers(given, "counts")
    budget.charge(1 + len(counts) // 4)
    num_slots, most = layer.topology.num_physical_experts, layer.most_replicas
    if len(counts) != len(layer.loads):
        raise CertificateError(f"{len(counts)} counts of {len(layer.loads)} experts")
    for expert, count in enumerate(counts):
        if not 1 <= count <= most:
            raise CertificateError(f"counts[{expert}]={shown(count)} is not from 1 to {most}")
    if sum(counts) != num_slots:
        raise CertificateError(f"the counts sum to {sum(counts)}, not to {num_slots} slots")
    return counts


def _objective(
    layer: Layer, entry: dict[str, Any], counts: Sequence[int] | None, budget: CheckBudget
) -> Fraction | None:
    """The value of the placement, which must be valid and worth what is claimed."""
    if entry["phy2log"] is None:
        if entry["objective_exact"] is not None:
            raise CertificateError("an objective without a placement")
        nodes = layer.topology.num_nodes if layer.rule == Rule.HIERARCHICAL else 1
        if counts is not None and nodes > 1:
            raise CertificateError("counts under this rule need a placement, which shows they fit")
        return None
    phy2log = parse_integers(entry["phy2log"], "phy2log")
    bits = max(load_bits(layer), layer.unit.denominator.bit_length()) + COUNT_BITS
    ranks, experts = layer.topology.num_ranks, len(layer.loads)
    budget.charge(1 + len(phy2log) * (1 + bits // 4096) + experts * product_cost(bits, COUNT_BITS))
    wrong = layer_violation(layer, phy2log)
    if wrong is not None:
        raise CertificateError(f"phy2log is no valid placement: {wrong}")
    if counts is not None and Counter(phy2log) != dict(enumerate(counts)):
        raise CertificateError("the placement has not the given counts")
    budget.charge(2 * ranks * product_cost(bits, bits))
    value = max(rank_loads(layer, phy2log))
    claimed = parse_exact(entry["objective_exact"], "objective_exact", budget)
    if value != claimed:
        raise CertificateError(
            f"the placement is worth {shown(value)}, not objective_exact={shown(claimed)}"
        )
    return value


def _status(objective: Fraction | None, bound: Fraction) -> str:
    if objective is None:
        return "unknown"
    if objective < bound:
        raise CertificateError(
            f"the placement is worth {shown(objective)}, below the bound {shown(bound)}"
        )
    return "optimal" if objective == bound else "feasible"
