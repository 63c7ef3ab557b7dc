"""The file of a certificate: what was solved, what was found, and why nothing better exists."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from eplb_opt.certificate.parsing import parse_evidence, parse_exact, parse_integers
from eplb_opt.certificate.proof import CertificateError, Trust, check_bound
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import rank_loads
from eplb_opt.problem.topology import Rule, Topology
from eplb_opt.problem.validity import layer_violation

SCHEMA = "eplb-opt/certificate/1"
LAYER_FIELDS = {
    "layer", "loads", "stage", "phy2log", "counts", "objective_exact", "lower_bound_exact",
    "status", "evidence",
}  # fmt: skip
TOPOLOGY_FIELDS = ("num_physical_experts", "num_ranks", "num_nodes", "num_groups")
STAGES = ("joint", "packing")
LARGEST_SIZE = 100_000
"""Experts or slots beyond which a document is refused."""


@dataclass(frozen=True)
class Verdict:
    """What was found about one layer: ``trust`` is None if the layer was refused for ``reason``."""

    layer: int
    objective: Fraction | None = None
    lower_bound: Fraction | None = None
    kind: str = ""
    trust: Trust | None = None
    reason: str = ""


def signed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the digest of its content, which shows a change made by accident.

    It proves nothing: whoever changes a claim can compute the digest again. The checks of the
    claims themselves are what counts.
    """
    content = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return content | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def verify_document(document: Any) -> list[Verdict]:
    """Check every layer of a document, with no solver.

    Raises:
        CertificateError: the document as a whole is no certificate.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise CertificateError(f"is no certificate: expected schema {SCHEMA!r}")
    if set(document) - {"interrupted"} != {"schema", "instance", "layers", "sha256"}:
        raise CertificateError(
            "a certificate has the fields schema, instance, layers, interrupted and sha256"
        )
    if signed(document)["sha256"] != document["sha256"]:
        raise CertificateError("was changed: its content does not fit sha256")
    machine, layers = document["instance"], document["layers"]
    if not isinstance(machine, dict) or not isinstance(layers, list):
        raise CertificateError("instance must be an object and layers a list")
    if type(document.get("interrupted", False)) is not bool:
        raise CertificateError("interrupted must be true or false")
    if machine.get("objective", "sum") != "sum" or machine.get("dispatch", "even") != "even":
        raise CertificateError("only the objective 'sum' under dispatch 'even' can be verified")
    if machine.get("num_layers") != len(layers):
        raise CertificateError(
            f"num_layers={machine.get('num_layers')} but there are {len(layers)} layers"
        )
    return [_verdict(machine, position, entry) for position, entry in enumerate(layers)]


def _verdict(machine: dict[str, Any], position: int, entry: Any) -> Verdict:
    number = entry.get("layer") if isinstance(entry, dict) else None
    if type(number) is not int:
        return Verdict(position, reason="'layer' is missing or no integer")
    try:
        return _checked(machine, number, entry)
    except (CertificateError, ValueError) as error:
        return Verdict(number, reason=str(error))


def _checked(machine: dict[str, Any], number: int, entry: dict[str, Any]) -> Verdict:
    if set(entry) != LAYER_FIELDS:
        raise CertificateError(f"a layer has the fields {', '.join(sorted(LAYER_FIELDS))}")
    if entry["stage"] not in STAGES:
        raise CertificateError(f"stage={entry['stage']!r} is not one of {', '.join(STAGES)}")
    layer = _layer(machine, number, entry["loads"])
    bound = parse_exact(entry["lower_bound_exact"], "lower_bound_exact")
    counts = parse_integers(entry["counts"], "counts") if entry["stage"] == "packing" else None
    if counts is None and entry["counts"] is not None:
        raise CertificateError("counts are given for the stage packing only")
    objective = _objective(layer, entry, counts)
    if _status(objective, bound) != entry["status"]:
        raise CertificateError(f"status={entry['status']!r} does not follow from the values")
    evidence = parse_evidence(entry["evidence"])
    trust = check_bound(layer, bound, evidence, counts)
    return Verdict(number, objective, bound, evidence.kind, trust)


def _layer(machine: dict[str, Any], number: int, loads: Any) -> Layer:
    """The problem, with the loads over their common denominator."""
    sizes: list[Any] = [machine.get(name) for name in TOPOLOGY_FIELDS]
    if any(type(size) is not int or not 0 < size <= LARGEST_SIZE for size in sizes):
        raise CertificateError(f"{', '.join(TOPOLOGY_FIELDS)} must be positive integers")
    spread = machine.get("spread_replicas")
    if machine.get("rule") not in list(Rule) or type(spread) is not bool:
        raise CertificateError("rule or spread_replicas is missing or wrong")
    topology, rule = Topology(*sizes), Rule(machine["rule"])
    if not isinstance(loads, list) or len(loads) != machine.get("num_logical_experts"):
        raise CertificateError("loads is not a list of num_logical_experts numbers")
    exact = [parse_exact(load, "loads") for load in loads]
    if not 0 < len(exact) <= topology.num_physical_experts:
        raise CertificateError(f"{len(exact)} experts do not fit the slots")
    groups, nodes = topology.num_groups, topology.num_nodes
    if rule == Rule.HIERARCHICAL and (groups % nodes or len(exact) % groups):
        raise CertificateError("the groups do not divide among nodes or experts")
    unit = Fraction(1, math.lcm(*(load.denominator for load in exact)))
    return Layer(tuple(int(load / unit) for load in exact), unit, topology, rule, number, spread)


def _objective(
    layer: Layer, entry: dict[str, Any], counts: Sequence[int] | None
) -> Fraction | None:
    """The value of the placement, which must be valid and worth what is claimed."""
    if entry["phy2log"] is None:
        if entry["objective_exact"] is not None:
            raise CertificateError("an objective without a placement")
        return None
    slots = parse_integers(entry["phy2log"], "phy2log")
    wrong = layer_violation(layer, slots)
    if wrong is not None:
        raise CertificateError(f"phy2log is no valid placement: {wrong}")
    if counts is not None and [slots.count(e) for e in range(len(layer.loads))] != list(counts):
        raise CertificateError("the placement has not the given counts")
    value = max(rank_loads(layer, slots))
    claimed = parse_exact(entry["objective_exact"], "objective_exact")
    if value != claimed:
        raise CertificateError(f"the placement is worth {value}, not objective_exact={claimed}")
    return value


def _status(objective: Fraction | None, bound: Fraction) -> str:
    if objective is None:
        return "unknown"
    if objective < bound:
        raise CertificateError(f"the placement is worth {objective}, below the bound {bound}")
    return "optimal" if objective == bound else "feasible"
