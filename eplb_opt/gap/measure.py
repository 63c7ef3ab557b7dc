"""The main job: how far the placements of policies are from the best possible, with proof."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from statistics import fmean

from eplb_opt.gap.attribution import attribute_layers
from eplb_opt.gap.loss_split import PolicySplit, Progress
from eplb_opt.gap.reference import Reference, find_references
from eplb_opt.gap.staleness import same_problem, split_layers
from eplb_opt.policies.names import (
    AnyPolicy,
    InvalidPlacementError,
    PolicyError,
    PolicyTimeoutError,
    named_policies,
)
from eplb_opt.policies.runner import MEMORY, TIMEOUT, Limits, PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import EVEN_SUM, SUM, Cost, Dispatch, Objective
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.rationals import relative_gap
from eplb_opt.problem.shown import Shown, ShowsItself, percent
from solvers.bracket import Bracket
from solvers.dispatch import value
from solvers.given import ratio
from solvers.options import SearchOptions

SMALL_SLOTS = 24
"""Layers of at most this many slots are solved to optimality unless a time limit is given."""
SMALL_TIME_LIMIT = 10.0
"""Seconds for each such layer."""
EXPLAIN_TIME_LIMIT = 0.2
"""Seconds for each search that explains a gap, for layers that are not small."""
LARGE_TOLERANCE = Fraction(1, 10**4)
"""A search ends when placement and bound are as close as this, relatively, for layers that are not
small."""


def usual_tolerance(instance: Instance) -> Fraction:
    """What the command line asks of a search: a full proof of small layers, else nearly one."""
    return Fraction(0) if _is_small(instance) else LARGE_TOLERANCE


def _is_small(instance: Instance) -> bool:
    return instance.topology.num_physical_experts <= SMALL_SLOTS


COLUMNS = ("policy", "status", "message", "mean gap", "max gap", "optimal", "seconds")
"""What is shown of a policy."""
LONGEST = 80
"""Letters of a message that are shown."""


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


@dataclass(frozen=True, repr=False)
class PolicyGap(ShowsItself):
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

    def _shown(self) -> Shown:
        """The policy over all layers."""
        return Shown("PolicyGap", COLUMNS, [self._row()])

    def _row(self) -> tuple[str, ...]:
        """What is shown of it, by :data:`COLUMNS`."""
        optimal = f"{self.num_optimal}/{len(self.layers)}" if self.layers else ""
        seconds = "" if self.runtime is None else f"{self.runtime:.2g}"
        gaps = (percent(self.gap_mean), percent(self.gap_max))
        return (self.policy, self.status, self.message[:LONGEST], *gaps, optimal, seconds)

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


@dataclass(frozen=True, repr=False)
class GapReport(ShowsItself):
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
        cost: what was measured: objective and dispatch.
    """

    instance: Instance
    reference: tuple[Reference, ...]
    policies: tuple[PolicyGap, ...]
    interrupted: bool = False
    attribution: tuple[PolicySplit, ...] = ()
    staleness: tuple[PolicySplit, ...] = ()
    placed_on: str = ""
    cost: Cost = EVEN_SUM

    def _shown(self) -> Shown:
        """Each policy over all layers."""
        known = Counter(reference.status for reference in self.reference)
        bounds = ", ".join(f"{count} {status}" for status, count in known.items())
        ended = ", interrupted" * self.interrupted
        heading = f"GapReport({self.instance!r}, references: {bounds}{ended})"
        return Shown(heading, COLUMNS, [policy._row() for policy in self.policies])


def measure_gap(
    instance: Instance,
    policies: AnyPolicy | Iterable[AnyPolicy] = ("deepseek",),
    *,
    objective: Objective | str = SUM,
    dispatch: Dispatch | str = Dispatch.EVEN,
    time_limit: float | None = None,
    tolerance: float | Fraction = 0,
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
        policies: names, files as ``FILE.py[:FUNCTION]``, or functions; see
            :func:`eplb_opt.policies.names.load_policy`. One of them or several.
        objective: what a placement is measured by, over the steps of a trace; bounds are known for
            ``sum``.
        dispatch: how the tokens of an expert are shared by its replicas; a loss is split for
            ``even`` only.
        time_limit: seconds of exact search for each layer where the closed-form bound and the best
            policy do not meet. None: small layers (up to 24 slots) get 10 s, others no search.
        tolerance: a search ends at this relative distance of placement and bound; 0 for a full
            proof.
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
    layers, cost = served.layers(), Cost.of(objective, dispatch)
    if cost != EVEN_SUM and (explain or serve_on is not None):
        raise ValueError(f"{cost}: a loss is split for objective='sum' and dispatch='even' only")
    own = PolicyRunner(Limits(policy_timeout, policy_memory))
    with own if runner is None else nullcontext(runner) as running:
        measured, interrupted = _run_policies(running, policies, instance, layers, cost, progress)

    limits = SearchOptions(time_limit, None, ratio("tolerance", tolerance), seed, workers)
    search = replace(limits, time_limit=0.0) if interrupted else _limited(limits, instance, 0.0)
    known = [[m.values[i] for m in measured if m.values] for i in range(len(layers))]
    references, stopped = find_references(
        layers, known, cost, search, progress, compile_first=time_limit is None
    )
    gaps = tuple(_policy_gap(policy, references) for policy in measured)
    report = GapReport(
        served, references, gaps, interrupted or stopped, placed_on=instance.source, cost=cost
    )

    search = _limited(limits, instance, EXPLAIN_TIME_LIMIT)
    seen = None if serve_on is None else instance.layers()
    return _split_losses(report, layers, seen, search, progress, explain=explain)


def _limited(limits: SearchOptions, instance: Instance, large: float) -> SearchOptions:
    """``limits``, without a time limit as long as such layers take; ``large`` if not small."""
    if limits.time_limit is not None:
        return limits
    return replace(limits, time_limit=SMALL_TIME_LIMIT if _is_small(instance) else large)


@dataclass(frozen=True)
class _Measured:
    """A policy's outcome before the reference is known, and by layer what its placement costs:
    nothing if it failed.
    """

    outcome: PolicyGap
    values: tuple[Bracket, ...] = ()


def _run_policies(
    runner: PolicyRunner,
    policies: AnyPolicy | Iterable[AnyPolicy],
    instance: Instance,
    layers: Sequence[Layer],
    cost: Cost,
    progress: Progress,
) -> tuple[list[_Measured], bool]:
    """Place with every policy; also whether Ctrl-C ended one of them."""
    named = named_policies(policies)
    measured, interrupted = list[_Measured](), False
    for name, policy in named:
        progress(name, len(measured), len(named))
        try:
            measured.append(_run_policy(runner, name, policy, instance, layers, cost))
        except KeyboardInterrupt:
            interrupted = True
            measured.append(_Measured(PolicyGap(name, "error", "interrupted")))
    return measured, interrupted


def _run_policy(
    runner: PolicyRunner,
    name: str,
    policy: AnyPolicy,
    instance: Instance,
    layers: Sequence[Layer],
    cost: Cost,
) -> _Measured:
    try:
        run = runner.run(policy, instance)
    except PolicyTimeoutError as error:
        return _Measured(PolicyGap(name, "timeout", str(error)))
    except InvalidPlacementError as error:
        return _Measured(PolicyGap(name, "invalid", str(error)))
    except PolicyError as error:
        return _Measured(PolicyGap(name, "error", str(error)))
    rows = run.placement.phy2log.tolist()
    outcome = PolicyGap(
        name,
        "ok",
        runtime=run.runtime,
        placement=run.placement,
        first_call=run.first_call,
        import_time=run.import_time,
    )
    pairs = zip(layers, rows, strict=True)
    return _Measured(outcome, tuple(value(layer, slots, *cost) for layer, slots in pairs))


def _policy_gap(measured: _Measured, references: Sequence[Reference]) -> PolicyGap:
    layers = tuple(
        _layer_gap(found.incumbent, reference)
        for found, reference in zip(measured.values, references, strict=False)
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


def _split_losses(
    report: GapReport,
    layers: Sequence[Layer],
    seen: Sequence[Layer] | None,
    search: SearchOptions,
    progress: Progress,
    *,
    explain: bool,
) -> GapReport:
    """The report with what the losses consist of, unless Ctrl-C came before."""
    placements = {
        p.policy: p.placement.phy2log.tolist() for p in report.policies if p.placement is not None
    }
    if explain and not report.interrupted:
        splits, interrupted = attribute_layers(layers, placements, search, progress)
        report = replace(report, attribution=splits, interrupted=interrupted)
    if seen is not None and not report.interrupted:
        splits, interrupted = split_layers(seen, layers, placements, search, progress)
        report = replace(report, staleness=splits, interrupted=interrupted)
    return report
