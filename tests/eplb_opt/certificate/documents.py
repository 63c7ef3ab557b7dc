"""Certificates made by hand, for what no solver writes."""

from typing import Any

from eplb_opt.certificate.document import sign

CLOSED_FORM = {"kind": "closed-form"}
EXHAUSTIVE = {"kind": "exhaustive"}


def document(layers: list[dict[str, Any]], machine: dict[str, Any]) -> dict[str, Any]:
    instance = {
        "source": "by hand",
        "num_layers": len(layers),
        "num_nodes": 1,
        "num_groups": 1,
        "rule": "global",
        "spread_replicas": False,
    }
    return sign(
        {
            "schema": "eplb-opt/certificate/1",
            "instance": instance | machine,
            "layers": layers,
            "interrupted": False,
        }
    )


def claim(loads: list[Any], bound: str, evidence: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "layer": 0,
        "loads": [str(load) for load in loads],
        "stage": "joint",
        "phy2log": None,
        "counts": None,
        "objective_exact": None,
        "lower_bound_exact": bound,
        "status": "unknown",
        "evidence": evidence,
    } | fields


def machine(experts: int, slots: int, ranks: int, **fields: Any) -> dict[str, Any]:
    sizes = {"num_logical_experts": experts, "num_physical_experts": slots, "num_ranks": ranks}
    return sizes | fields


def of_one(
    loads: list[Any],
    slots: int,
    ranks: int,
    bound: str = "1",
    evidence: dict[str, Any] = CLOSED_FORM,
    rules: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A document of one layer."""
    layer = claim(loads, bound, evidence, **fields)
    return document([layer], machine(len(loads), slots, ranks, **(rules or {})))


def of_steps(
    trace: list[list[list[Any]]], slots: int, ranks: int, instance: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:  # fmt: skip
    """A document of one layer of a trace, by default the mean under optimal dispatch."""
    cost = {"objective": "mean", "dispatch": "optimal", "num_steps": len(trace)}
    whole = {"steps": [[str(load) for load in row[0]] for row in trace], "lower_bound_exact": "1"}
    layer = claim([], "1", CLOSED_FORM) | whole | fields
    if "loads" not in fields:
        del layer["loads"]
    sizes = machine(len(trace[0][0]), slots, ranks, **(cost | (instance or {})))
    return document([layer], sizes)
