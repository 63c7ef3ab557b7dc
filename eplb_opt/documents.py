"""Every JSON document of this project: plain numbers, strings and lists, None where unknown.

Exact values are strings ``num/den``; the floats beside them are for reading, a lower bound's is
rounded down, others are None beyond the range of floats. Fields are added, never changed
(docs/reference/json.md).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from eplb_opt.certificate import writing
from eplb_opt.gap.frontier import Frontier
from eplb_opt.gap.loss_split import Interval, PolicySplit, Split
from eplb_opt.gap.outcome import GapReport, PolicyGap
from eplb_opt.gap.reference import Reference
from eplb_opt.gap.traffic import traffic_of
from eplb_opt.migration import Candidate, LayerPlan, MigrationPlan
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, SUM, Dispatch, Objective
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.rationals import exact_text, float_above, float_below, nearest_float
from eplb_opt.problem.result import Result
from eplb_opt.serving.replay.replayed import Replayed, ReplayReport

Document = dict[str, Any]

DEPENDENCIES = ("eplb-opt", "torch", "numpy", "scipy", "ortools")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Of this program and of what its figures depend on, by name."""
    return {"python": platform.python_version()} | {name: version(name) for name in DEPENDENCIES}


def describe_instance(
    instance: Instance, objective: Objective = SUM, dispatch: Dispatch = Dispatch.EVEN
) -> Document:
    """The ``instance`` object of the documents, with what was minimized."""
    return {
        "source": instance.source,
        "num_layers": instance.num_layers,
        "num_logical_experts": instance.num_logical_experts,
        **asdict(instance.topology),
        "rule": str(instance.rule),
        "traffic_limit": nearest_float(Fraction(instance.traffic_limit)),
        "spread_replicas": instance.spread_replicas,
        "num_steps": 1 if instance.trace is None else len(instance.trace),
        "objective": str(objective),
        "dispatch": str(dispatch),
    }


def gap(report: GapReport, command: str | None = None) -> Document:
    """``eplb-opt/gap/1``; ``command`` is the command line as it was typed."""
    instance = report.instance
    num_slots = instance.topology.num_physical_experts
    in_order = Placement.in_order(instance.num_layers, instance.num_logical_experts, num_slots)
    return {
        "schema": "eplb-opt/gap/1",
        "command": command,
        "instance": {
            **describe_instance(instance, *report.cost),
            "normalize_steps": instance.normalize_steps,
        },
        "reference": [_reference(reference) for reference in report.reference],
        "policies": [_policy(policy, report) for policy in report.policies],
        "travel": None if report.travel is None else asdict(report.travel),
        "rank_loads_in_order": _rank_loads(in_order, report),
        "placed_on": report.placed_on,
        "attribution": [_policy_split(split) for split in report.attribution],
        "staleness": [_policy_split(split) for split in report.staleness],
        "interrupted": report.interrupted,
        "versions": versions(),
    }


def frontier(found: Frontier, command: str | None = None) -> Document:
    """``eplb-opt/frontier/1``: a list of :func:`gap` documents."""
    return {
        "schema": "eplb-opt/frontier/1",
        "command": command,
        "reports": [gap(report, command) for report in found.reports],
        "interrupted": found.interrupted,
        "versions": versions(),
    }


def _reference(reference: Reference) -> Document:
    return {
        "layer": reference.layer,
        "status": reference.status,
        "lower_bound": float_below(reference.lower_bound),
        "incumbent": nearest_float(reference.incumbent),
        "mean_load": nearest_float(reference.mean_load),
        "bound_source": reference.bound_source,
        "runtime_s": reference.runtime,
    }


def _policy(policy: PolicyGap, report: GapReport) -> Document:
    return {
        "policy": policy.policy,
        "status": policy.status,
        "message": policy.message,
        "runtime_s": policy.runtime,
        "first_call_s": policy.first_call,
        "import_s": policy.import_time,
        "layers": [
            {
                "layer": layer.layer,
                "makespan": nearest_float(layer.makespan),
                "gap": layer.gap,
                "optimal": layer.optimal,
                "traffic": nearest_float(layer.traffic),
                "time": layer.time,
                "time_most": layer.time_most,
            }
            for layer in policy.layers
        ],
        "gap_mean": policy.gap_mean,
        "gap_max": policy.gap_max,
        "loss_mean": policy.loss_mean,
        "balancedness_mean": policy.balancedness_mean,
        "num_optimal": policy.num_optimal,
        "traffic": policy.traffic_mean,
        "time": policy.time_mean,
        "time_most": policy.time_most_mean,
        "rank_loads": _rank_loads(policy.placement, report),
    }


def _rank_loads(placement: Placement | None, report: GapReport) -> list[list[float | None]] | None:
    """Tokens on each rank of each layer with load, for pictures; None but for an even split."""
    if placement is None or report.cost.dispatch != Dispatch.EVEN:
        return None
    loads = placement.rank_loads(report.instance.loads, report.instance.topology.num_ranks)
    return [_digits(row) for row in loads[[r.status != "no-load" for r in report.reference]]]


def _policy_split(found: PolicySplit) -> Document:
    rows = [{"layer": layer.layer, **_split(layer.split)} for layer in found.layers]
    mean = _split(found.mean)
    return {"policy": found.policy, "num_layers": len(rows), "mean": mean, "layers": rows}


def _split(split: Split) -> Document:
    """Floats for reading beside exact values."""
    terms = {
        name: {
            **_interval(term),
            "shown": nearest_float(split.shown[name]),
            "shown_exact": exact_text(split.shown[name]),
        }
        for name, term in split.terms.items()
    }
    return {
        "total": nearest_float(split.total),
        "total_exact": exact_text(split.total),
        "terms": terms,
        "sums": {name: _interval(interval) for name, interval in split.sums.items()},
        "beside": {name: _interval(interval) for name, interval in split.beside.items()},
    }


def _interval(interval: Interval) -> Document:
    """Floats rounded outwards, and the exact ends."""
    return {
        "low": float_below(interval.low),
        "high": float_above(interval.high),
        "low_exact": exact_text(interval.low),
        "high_exact": exact_text(interval.high),
    }


def solve(instance: Instance, results: Sequence[Result], *, interrupted: bool) -> Document:
    """``eplb-opt/solve/1`` for the first layers of an instance."""
    cost = results[0].cost if results else EVEN_SUM
    return {
        "schema": "eplb-opt/solve/1",
        "instance": describe_instance(instance, *cost),
        "layers": [_result(*pair) for pair in zip(instance.layers(), results, strict=False)],
        "interrupted": interrupted,
    }


def _result(layer: Layer, result: Result) -> Document:
    value, placed = result.objective, result.placement
    traffic = None if placed is None else traffic_of(layer, placed, result.cost, result.shares)
    return {
        "layer": layer.index,
        "stage": str(result.stage),
        "status": str(result.status),
        "objective": nearest_float(value),
        "objective_exact": _exact(value),
        "lower_bound": float_below(result.lower_bound),
        "lower_bound_exact": exact_text(result.lower_bound),
        "bound_source": result.bound_source,
        "gap": result.gap,
        "traffic": nearest_float(traffic),
        "phy2log": _list(result.placement),
        "counts": _list(result.counts),
        "node_of_group": _list(result.node_of_group),
        "backend": result.backend,
        "limit": None if result.limit is None else str(result.limit),
        "runtime_s": result.runtime,
    }


def certificate(instance: Instance, results: Sequence[Result], *, interrupted: bool) -> Document:
    """``eplb-opt/certificate/1`` for the first layers of an instance, joint or packing.

    The checker reads it before it is handed out; evidence that is too large to be checked is left
    out, and its bound is on trust (:mod:`eplb_opt.certificate.writing`).

    Raises:
        ValueError: the results are not all for one objective and dispatch, or one is of a layer
            that has no placement, of which nothing can be checked.
        RuntimeError: the checker refuses what was solved: an error of this package.
    """
    costs = {result.cost for result in results if not result.infeasible} or {EVEN_SUM}
    if len(costs) > 1:
        raise ValueError("a certificate speaks of one objective and one dispatch")
    machine = describe_instance(instance, *costs.pop()) | {
        "num_layers": len(results),
        "traffic_limit_exact": exact_text(Fraction(instance.traffic_limit)),
    }
    return writing.certificate(machine, instance.layers(), results, interrupted=interrupted)


evidence = writing.evidence


def migrate(plan: MigrationPlan, old: str, budget: int, within: float | None) -> Document:
    """``eplb-opt/migrate/1``, with what was asked for."""
    return {
        "schema": "eplb-opt/migrate/1",
        "instance": describe_instance(plan.instance),
        "old": old,
        "budget": budget,
        "within": within,
        "layers": [_layer_plan(layer, plan.budgets) for layer in plan.layers],
        "front": [
            {"budget": b, "above_mean": mean, "above_max": most, "received_mean": transfers}
            for b, mean, most, transfers in plan.summary()
        ],
        "interrupted": plan.interrupted,
    }


def _layer_plan(plan: LayerPlan, budgets: Sequence[int]) -> Document:
    return {
        "layer": plan.layer,
        "status": "ok" if plan.lower_bound > 0 else "no-load",
        "lower_bound": float_below(plan.lower_bound),
        "lower_bound_exact": exact_text(plan.lower_bound),
        "before": _candidate(plan.before),
        "after": {**_candidate(plan.after), "phy2log": list(plan.after.phy2log)},
        "received_at_least": plan.transfers_at_least,
        "front": [
            {"budget": budget, **_candidate(found)}
            for budget, found in zip(budgets, plan.front, strict=True)
        ],
    }


def _candidate(found: Candidate) -> Document:
    return {
        "makespan": nearest_float(found.makespan),
        "makespan_exact": exact_text(found.makespan),
        "above": found.gap,
        "received": found.transfers,
        "copied": found.copies,
        "traffic": nearest_float(found.traffic),
    }


def replay(report: ReplayReport) -> Document:
    """``eplb-opt/replay/1``."""
    scenario = report.scenario
    return {
        "schema": "eplb-opt/replay/1",
        "instance": {
            "source": report.source,
            "num_steps": len(scenario.trace),
            "num_models": scenario.num_models,
            "num_layers": scenario.num_layers,
            "num_logical_experts": scenario.trace.shape[2],
            **asdict(scenario.topology),
            "rule": str(scenario.rule),
            "traffic_limit": nearest_float(scenario.traffic_limit),
            "dispatch": str(Dispatch.EVEN),
        },
        "settings": asdict(scenario.settings) | {"layer_steps": scenario.layer_steps},
        "ranks_from": {str(step): ranks for step, ranks in scenario.ranks_from.items()},
        "expert_bytes": report.expert_bytes,
        "tokens_per_byte": report.tokens_per_byte,
        "interrupted": report.interrupted,
        "policies": [_replay_policy(replayed, report) for replayed in report.policies],
        "versions": versions(),
    }


def _replay_policy(replayed: Replayed, report: ReplayReport) -> Document:
    trail, size = replayed.trail, report.expert_bytes
    top, mean = trail.makespan.sum(1), trail.mean.sum(1)
    balancedness = np.divide(mean, top, out=np.zeros_like(top), where=top > 0)
    per_step = np.zeros((3, trail.steps), dtype=np.int64)
    for move in trail.moves:
        per_step[:, move.step] += move.received, move.received_most, move.copied
    return {
        "policy": replayed.policy,
        "loss": replayed.loss,
        "traffic": replayed.traffic,
        "loss_with_moving": report.loss_with_moving(replayed),
        "received": replayed.received,
        "bytes": replayed.received * size,
        "intervals": [asdict(i) | {"staleness": i.staleness} for i in replayed.intervals],
        "steps": {
            "balancedness": _digits(balancedness),
            "received": per_step[0].tolist(),
            "received_most": per_step[1].tolist(),
            "copied": per_step[2].tolist(),
            "bytes": [int(n) * size for n in per_step[0]],
            "makespan": [_digits(row) for row in trail.makespan],
            "mean_load": [_digits(row) for row in trail.mean],
        },
        "moves": [asdict(m) | {"bytes": m.received * size} for m in trail.moves],
    }


def _digits(values: Any) -> list[float | None]:
    """Numbers with six digits; None beyond the range of floats."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _exact(value: Fraction | None) -> str | None:
    return None if value is None else exact_text(value)


def _list(values: Sequence[int] | None) -> list[int] | None:
    return None if values is None else list(values)
