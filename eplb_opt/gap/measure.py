"""The main job: how far the placements of policies are from the best possible, with proof."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from statistics import fmean
from typing import Any

from eplb_opt.bounds import lower_bound, mean_load
from eplb_opt.gap.attribution import attribute_layers
from eplb_opt.gap.loss_split import PolicySplit
from eplb_opt.gap.reference import Search
from eplb_opt.gap.staleness import same_problem, split_layers
from eplb_opt.policies.names import InvalidPlacementError, PolicyError, PolicyTimeoutError
from eplb_opt.policies.runner import MEMORY, TIMEOUT, Limits, PolicyRunner
from eplb_opt.problem.instance import Instance, Layer
from eplb_opt.problem.objective import exact_makespan, relative_gap
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.result import float_below
from eplb_opt.versions import versions

SMALL_SLOTS = 24
"""Layers of at most this many slots are solved to optimality unless a time limit is given."""
SMALL_TIME_LIMIT = 10.0
"""Seconds for each such layer."""
EXPLAIN_TIME_LIMIT = 0.2
"""Seconds for each search that explains a gap, for layers that are not small."""
TOLERANCE = 1e-5
"""A search for a reference ends when placement and bound are as close as this, relatively."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many steps are done and how many there are."""


@dataclass(frozen=True)
class Reference:
    """What is known about the optimum of one layer.

    Attributes:
        layer: index.
        status: ``optimal`` (the bound is attained), ``feasible`` (an exact search ended with an
            incumbent above the bound), ``bound`` (no search was made), or ``no-load``.
        lower_bound: proven, in tokens, exact.
        incumbent: makespan of the best placement known, a policy's or the search's, exact; None if
            there is none and for ``no-load``.
        mean_load: mean rank load, exact.
        bound_source: the argument that proves the bound.
        runtime: seconds.
    """

    layer: int
    status: str
    lower_bound: Fraction
    incumbent: Fraction | None
    mean_load: Fraction
    bound_source: str
    runtime: float


@dataclass(frozen=True)
class LayerGap:
    """A policy on one layer with load: ``gap = (makespan - lower_bound) / lower_bound``.

    ``optimal`` is True if the makespan equals the bound, False if a better placement is known or
    the optimum is, None if nobody knows.
    """

    layer: int
    makespan: Fraction
    gap: float
    balancedness: float
    optimal: bool | None


@dataclass(frozen=True)
class PolicyGap:
    """A policy on all layers that have load; without them unless ``status`` is ``ok``.

    ``status`` is ``ok``, ``invalid`` (no valid placement), ``error`` or ``timeout``; ``message``
    says why. ``runtime`` is the median second of a call, ``first_call`` that of the first one,
    ``import_time`` that of a user's file; all without the start of a process.
    """

    policy: str
    status: str
    message: str = ""
    runtime: float | None = None
    layers: tuple[LayerGap, ...] = ()
    placement: Placement | None = field(default=None, repr=False)
    first_call: float | None = None
    import_time: float | None = None

    @property
    def gap_mean(self) -> float | None:
        """Mean over layers with load; None if there are none."""
        return fmean(layer.gap for layer in self.layers) if self.layers else None

    @property
    def gap_max(self) -> float | None:
        """Largest gap of a layer; None if there are none."""
        return max((layer.gap for layer in self.layers), default=None)

    @property
    def balancedness_mean(self) -> float | None:
        """Mean over layers of mean rank load over makespan; None if there are none."""
        return fmean(layer.balancedness for layer in self.layers) if self.layers else None

    @property
    def num_optimal(self) -> int:
        """Layers where the placement is proven optimal."""
        return sum(layer.optimal is True for layer in self.layers)


@dataclass(frozen=True)
class GapReport:
    """Reference and policies for one instance; ``interrupted`` if Ctrl-C ended it early.

    Attributes:
        instance: the loads that are served.
        reference: one entry a layer.
        policies: one entry a policy, in the order given.
        interrupted: Ctrl-C ended the work early.
        attribution: with ``explain``, the split of each policy that is ``ok``, see
            :mod:`eplb_opt.gap.attribution`.
        staleness: with ``serve_on``, likewise, see :mod:`eplb_opt.gap.staleness`.
        placed_on: where the loads came from that the policies saw.
    """

    instance: Instance
    reference: tuple[Reference, ...]
    policies: tuple[PolicyGap, ...]
    interrupted: bool = False
    attribution: tuple[PolicySplit, ...] = ()
    staleness: tuple[PolicySplit, ...] = ()
    placed_on: str = ""

    def to_json(self) -> dict[str, Any]:
        """The document ``eplb-opt/gap/1``: plain numbers, strings, lists; None where unknown."""
        return {
            "schema": "eplb-opt/gap/1",
            "instance": describe_instance(self.instance),
            "reference": [_reference_json(reference) for reference in self.reference],
            "policies": [_policy_json(policy, self) for policy in self.policies],
            "rank_loads_in_order": _rank_loads(_in_order(self.instance), self),
            "placed_on": self.placed_on,
            "attribution": [split.to_json() for split in self.attribution],
            "staleness": [split.to_json() for split in self.staleness],
            "versions": versions(),
        }


def measure_gap(
    instance: Instance,
    policies: Sequence[str] = ("deepseek",),
    *,
    time_limit: float | None = None,
    seed: int = 0,
    workers: int = 1,
    explain: bool = False,
    serve_on: Instance | None = None,
    policy_timeout: float = TIMEOUT,
    policy_memory: int = MEMORY,
    runner: PolicyRunner | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> GapReport:
    """Place ``instance`` with every policy and compare with proven lower bounds.

    Args:
        instance: loads, machine and rule.
        policies: names or ``FILE.py[:FUNCTION]``, see :func:`eplb_opt.policies.names.load_policy`.
        time_limit: seconds of exact search for each layer where the closed-form bound and the best
            policy do not meet. None: small layers (up to 24 slots) get 10 s, others no search.
        seed: of the exact search.
        workers: threads of the exact search.
        explain: also split each policy's loss, see :mod:`eplb_opt.gap.attribution`. Each of the
            optima that this needs is searched for up to ``time_limit`` (None: 0.2 s, small layers
            10 s).
        serve_on: other loads for the same machine and rule. The policies see ``instance`` and are
            measured on these; the loss is also split, see :mod:`eplb_opt.gap.staleness`.
        policy_timeout: seconds for each call of a user's program, and for its import.
        policy_memory: bytes that a user's program may allocate.
        runner: runs the policies, in place of one with these two limits; for many instances.
        progress: called as the work goes on.

    Returns:
        A report with one reference a layer and one entry a policy, in the order given. A policy
        that fails has a status and a message; the others are measured all the same.

    Raises:
        ValueError: ``serve_on`` differs in machine, rule, layers or experts.

    Example:
        >>> from eplb_opt import Topology
        >>> loads = [[600, 560, 120, 120, 20, 10, 10, 10]]
        >>> instance = Instance(loads, Topology(num_physical_experts=16, num_ranks=8))
        >>> report = measure_gap(instance, ["deepseek"])
        >>> str(report.reference[0].lower_bound), str(report.policies[0].layers[0].makespan)
        ('590/3', '232')
    """
    served = instance if serve_on is None else same_problem(instance, serve_on)
    layers = served.layers()
    search = _search(instance, time_limit, seed, workers)
    interrupted = False
    measured: list[_Measured] = []
    own = PolicyRunner(Limits(policy_timeout, policy_memory))
    with own if runner is None else nullcontext(runner) as running:
        for name in policies:
            progress(name, len(measured), len(policies))
            try:
                measured.append(_run_policy(running, name, instance, layers))
            except KeyboardInterrupt:
                interrupted = True
                measured.append(_Measured(PolicyGap(name, "error", "interrupted")))
    if time_limit is None:
        small = instance.topology.num_physical_experts <= SMALL_SLOTS
        time_limit = SMALL_TIME_LIMIT if small else 0.0
    references: list[Reference] = []
    try:
        for i, layer in enumerate(layers):
            progress("reference", i, len(layers))
            known = [policy.makespans[i] for policy in measured if policy.makespans]
            limit = 0.0 if interrupted else time_limit
            reference, stopped = _refer(layer, known, limit, seed, workers)
            interrupted = interrupted or stopped
            references.append(reference)
        progress("reference", len(layers), len(layers))
    except KeyboardInterrupt:  # between two searches: the layers done so far are the report
        interrupted = True
    gaps = tuple(_policy_gap(policy, references) for policy in measured)
    placements = {p.policy: p.placement.phy2log.tolist() for p in gaps if p.placement is not None}
    attribution: tuple[PolicySplit, ...] = ()
    staleness: tuple[PolicySplit, ...] = ()
    if explain and not interrupted:
        attribution, interrupted = attribute_layers(layers, placements, search, progress)
    if serve_on is not None and not interrupted:
        seen = instance.layers()
        staleness, interrupted = split_layers(seen, layers, placements, search, progress)
    return GapReport(
        served, tuple(references), gaps, interrupted, attribution, staleness, instance.source
    )


def _search(instance: Instance, time_limit: float | None, seed: int, workers: int) -> Search:
    """Limits of the searches that explain a gap."""
    if time_limit is None:
        small = instance.topology.num_physical_experts <= SMALL_SLOTS
        time_limit = SMALL_TIME_LIMIT if small else EXPLAIN_TIME_LIMIT
    return Search(time_limit, TOLERANCE, seed, workers)


@dataclass(frozen=True)
class _Measured:
    """A policy's outcome before the reference is known; no makespans if it failed."""

    outcome: PolicyGap
    makespans: tuple[Fraction, ...] = ()


def _run_policy(
    runner: PolicyRunner, name: str, instance: Instance, layers: Sequence[Layer]
) -> _Measured:
    try:
        run = runner.run(name, instance)
    except PolicyTimeoutError as error:
        return _Measured(PolicyGap(name, "timeout", str(error)))
    except InvalidPlacementError as error:
        return _Measured(PolicyGap(name, "invalid", str(error)))
    except PolicyError as error:
        return _Measured(PolicyGap(name, "error", str(error)))
    rows = run.placement.phy2log.tolist()
    makespans = tuple(exact_makespan(*pair) for pair in zip(layers, rows, strict=True))
    outcome = PolicyGap(
        name,
        "ok",
        runtime=run.runtime,
        placement=run.placement,
        first_call=run.first_call,
        import_time=run.import_time,
    )
    return _Measured(outcome, makespans)


def _refer(
    layer: Layer, known: Sequence[Fraction], time_limit: float, seed: int, workers: int
) -> tuple[Reference, bool]:
    """The reference for one layer, and whether Ctrl-C ended the search for it."""
    start = time.perf_counter()
    mean = mean_load(layer)
    if not layer.has_load:
        return Reference(layer.index, "no-load", mean, None, mean, "no-load", 0.0), False
    bound = lower_bound(layer)
    best, value, source, limit = min(known, default=None), bound.value, bound.source, None
    searched = best != value and time_limit > 0
    if searched:
        from solvers import solve

        result = solve(
            layer, time_limit=time_limit, seed=seed, workers=workers, tolerance=TOLERANCE
        )
        value, source, limit = result.lower_bound, result.bound_source, result.limit
        best = min((v for v in (best, result.objective) if v is not None), default=None)
    status = "optimal" if best == value else "feasible" if searched else "bound"
    runtime = time.perf_counter() - start
    reference = Reference(layer.index, status, value, best, mean, source, runtime)
    return reference, limit == "interrupt"


def _policy_gap(measured: _Measured, references: Sequence[Reference]) -> PolicyGap:
    layers = tuple(
        _layer_gap(makespan, reference)
        for makespan, reference in zip(measured.makespans, references, strict=False)
        if reference.status != "no-load"
    )
    return replace(measured.outcome, layers=layers)


def _layer_gap(makespan: Fraction, reference: Reference) -> LayerGap:
    optimal: bool | None = None
    if makespan == reference.lower_bound:
        optimal = True
    elif reference.incumbent is not None and reference.incumbent < makespan:
        optimal = False
    return LayerGap(
        reference.layer,
        makespan,
        relative_gap(makespan, reference.lower_bound),
        float(reference.mean_load / makespan),
        optimal,
    )


def describe_instance(instance: Instance) -> dict[str, Any]:
    """The ``instance`` object of every JSON document."""
    topology = instance.topology
    return {
        "source": instance.source,
        "num_layers": instance.num_layers,
        "num_logical_experts": instance.num_logical_experts,
        "num_physical_experts": topology.num_physical_experts,
        "num_ranks": topology.num_ranks,
        "num_nodes": topology.num_nodes,
        "num_groups": topology.num_groups,
        "rule": str(instance.rule),
        "spread_replicas": instance.spread_replicas,
    }


def _reference_json(reference: Reference) -> dict[str, Any]:
    return {
        "layer": reference.layer,
        "status": reference.status,
        "lower_bound": float_below(reference.lower_bound),
        "incumbent": None if reference.incumbent is None else float(reference.incumbent),
        "mean_load": float(reference.mean_load),
        "bound_source": reference.bound_source,
        "runtime_s": reference.runtime,
    }


def _in_order(instance: Instance) -> Placement:
    slots = instance.topology.num_physical_experts
    return Placement.in_order(instance.num_layers, instance.num_logical_experts, slots)


def _rank_loads(placement: Placement | None, report: GapReport) -> list[list[float]] | None:
    """Tokens on each rank of each layer with load, with six digits: for pictures."""
    if placement is None:
        return None
    loads = placement.rank_loads(report.instance.loads, report.instance.topology.num_ranks)
    return [
        [float(f"{load:.6g}") for load in row]
        for reference, row in zip(report.reference, loads, strict=False)  # fewer if interrupted
        if reference.status != "no-load"
    ]


def _policy_json(policy: PolicyGap, report: GapReport) -> dict[str, Any]:
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
                "makespan": float(layer.makespan),
                "gap": layer.gap,
                "optimal": layer.optimal,
            }
            for layer in policy.layers
        ],
        "gap_mean": policy.gap_mean,
        "gap_max": policy.gap_max,
        "balancedness_mean": policy.balancedness_mean,
        "num_optimal": policy.num_optimal,
        "rank_loads": _rank_loads(policy.placement, report),
    }
