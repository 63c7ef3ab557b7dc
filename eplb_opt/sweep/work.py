"""One task: the rows of all its units. Runs in worker processes, on any machine."""

from __future__ import annotations

import time
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from eplb_opt.documents import describe_instance, versions
from eplb_opt.gap import GapReport, PolicyGap, measure_gap, usual_tolerance
from eplb_opt.io import read_loads
from eplb_opt.io.synthetic import generate
from eplb_opt.policies.process import Limits
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import Cost
from eplb_opt.problem.rationals import relative_gap
from eplb_opt.problem.result import Limit, Result
from eplb_opt.problem.topology import Topology
from eplb_opt.sweep.spec import Generated, Solver, Spec
from eplb_opt.sweep.tasks import Source, Task, solver_name

SCHEMA = "eplb-opt/sweep/1"

Row = dict[str, Any]


def run_task(task: Task, spec: Spec) -> list[Row]:
    """A row for each unit; what fails is a row with its status and message."""
    base: Row = {"schema": SCHEMA, "seed": spec.seed, "versions": versions()}
    try:
        instance = build(task)
        task.cost.objective.check_steps(instance)
    except (ValueError, OSError) as error:
        base |= {"status": "error", "message": " ".join(str(error).split()), "instance": None}
        names = [*task.policies, *map(solver_name, task.solvers)]
        pairs = zip(task.units, names, strict=True)
        return [base | {"unit": unit, "policy": name} for unit, name in pairs]
    base["instance"] = describe_instance(instance, *task.cost)
    rows: list[Row] = []
    if task.policies:
        report = measure_gap(
            instance,
            task.policies,
            objective=task.cost.objective,
            dispatch=task.cost.dispatch,
            time_limit=spec.time_limit,
            tolerance=usual_tolerance(instance),
            seed=spec.seed,
            runner=runner(spec.policy_timeout, int(spec.policy_memory_gb * 2**30)),
        )
        if report.interrupted:
            raise KeyboardInterrupt
        for policy in report.policies:
            row = policy_row(policy, report, spec.keep_layers)
            rows.append(base | {"unit": task.unit(policy.policy)} | row)
    for solver in task.solvers:
        row = solver_row(solver, instance, task.cost, spec)
        rows.append(base | {"unit": task.unit(solver)} | row)
    return rows


def build(task: Task) -> Instance:
    """The instance of a task.

    Raises:
        ValueError: loads, machine and rule do not fit together.
        OSError: the file can't be read.
    """
    loads = _loads(task.source)
    machine, rule = task.machine, task.rule
    num_slots = machine.physical or loads.shape[-1] + (machine.redundant or 0)
    topology = Topology(num_slots, machine.gpus, machine.nodes, machine.groups)
    limit = task.traffic
    return Instance(loads, topology, rule, task.source.key, traffic_limit=limit)  # type: ignore[arg-type]


def _loads(source: Source) -> Any:
    origin = source.origin
    if not isinstance(origin, Generated):
        return read_loads(Path(origin.file), steps=source.window).loads[..., : origin.layers, :]
    return generate(
        origin.family,
        num_layers=origin.layers,
        num_experts=origin.experts,
        tokens=origin.tokens,
        seed=source.seed or 0,
        num_groups=origin.groups,
        shape=origin.shape,
    )


@lru_cache(maxsize=1)
def runner(timeout: float, memory: int) -> PolicyRunner:
    """One for all tasks of a worker: a user's program is imported once."""
    return PolicyRunner(Limits(timeout, memory))


def policy_row(policy: PolicyGap, report: GapReport, keep_layers: bool) -> Row:
    """What a row says about a policy."""
    statuses = [reference.status for reference in report.reference]
    kept: Row = {}
    if keep_layers:
        kept = {
            "layer_gaps": [layer.gap for layer in policy.layers],
            "layer_makespans": [float(layer.makespan) for layer in policy.layers],
        }
    return {
        "policy": policy.policy,
        "status": policy.status,
        "message": policy.message,
        "runtime_s": policy.runtime,
        "gap_mean": policy.gap_mean,
        "gap_max": policy.gap_max,
        "balancedness_mean": policy.balancedness_mean,
        "loss_mean": policy.loss_mean,
        "traffic": policy.traffic_mean,
        "num_optimal": policy.num_optimal,
        "num_layers": len(policy.layers),
        "reference": {s: statuses.count(s) for s in ("optimal", "feasible", "bound")},
        **kept,
    }


def solver_row(solver: Solver, instance: Instance, cost: Cost, spec: Spec) -> Row:
    """The same for an exact method, whose gap is to its own bound."""
    from solvers import solve
    from solvers.options import SearchOptions

    start = time.perf_counter()
    layers = [layer for layer in instance.layers() if layer.has_load]
    search = SearchOptions(solver.time_limit, seed=spec.seed)
    solve_layer = partial(
        solve,
        stage=solver.stage,
        backend=solver.backend,
        objective=cost.objective,
        dispatch=cost.dispatch,
        search=search,
    )
    row: Row = {"policy": solver_name(solver), "status": "ok", "message": "", "num_optimal": 0}
    results: list[Result] = []
    try:
        for layer in layers:
            results.append(solve_layer(layer))
            if results[-1].limit == Limit.INTERRUPT:
                raise KeyboardInterrupt
    except (ValueError, RuntimeError) as error:
        return row | {"status": "error", "message": " ".join(str(error).split())}
    open_layers = sum(result.objective is None for result in results)
    if open_layers:
        message = f"no placement in {solver.time_limit:g} s for {open_layers} layers"
        return row | {"status": "timeout", "message": message}
    gaps = [relative_gap(r.objective, r.lower_bound) for r in results if r.objective is not None]
    optimal = sum(result.status == "optimal" for result in results)
    row |= {
        "runtime_s": time.perf_counter() - start,
        "gap_mean": fmean(gaps) if gaps else None,
        "gap_max": max(gaps, default=None),
        "num_optimal": optimal,
        "num_layers": len(layers),
        "reference": {"optimal": optimal, "feasible": len(layers) - optimal, "bound": 0},
    }
    if spec.keep_layers:
        makespans = [float(r.objective) for r in results if r.objective is not None]
        row |= {"layer_gaps": gaps, "layer_makespans": makespans}
    return row
