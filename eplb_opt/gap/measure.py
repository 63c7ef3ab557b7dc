"""The main job: how far the placements of policies are from the best possible, with proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import NamedTuple

from eplb_opt.gap import served_loss
from eplb_opt.gap.attribution import attribute_layers
from eplb_opt.gap.loss_split import PolicySplit, Progress
from eplb_opt.gap.outcome import GapReport, LayerGap, PolicyGap
from eplb_opt.gap.reference import Reference, find_reference
from eplb_opt.gap.served_loss import Placed
from eplb_opt.gap.staleness import same_problem, split_layers
from eplb_opt.gap.traffic import check_travel, crossing_time, traffic_of
from eplb_opt.gap.travel import Travel
from eplb_opt.policies.names import (
    AnyPolicy,
    InvalidPlacementError,
    PolicyError,
    PolicyTimeoutError,
    load_policy,
    named_policies,
)
from eplb_opt.policies.process import MEMORY, TIMEOUT, Limits
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import (
    EVEN_SUM,
    SUM,
    Cost,
    Dispatch,
    Objective,
    cost_of_shares,
    mean_load,
)
from eplb_opt.problem.rationals import relative_gap
from eplb_opt.problem.result import Limit
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import over_limit
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


OF_SUM = "refined"
"""The policy that places the sum of the steps best."""
INTERRUPTED = "interrupted"
"""Message of a policy that Ctrl-C left without a result."""


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
    travel: Travel | None = None,
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
        objective: what a placement is measured by, over the steps of a trace.
        dispatch: how the tokens of an expert are shared by its replicas. The shares of ``fixed``
            are fitted to the steps that the policies see.
        time_limit: seconds of exact search for each layer where the closed-form bound and the best
            policy do not meet. None: small layers (up to 24 slots) get 10 s, others no search.
        tolerance: a search ends at this relative distance of placement and bound; 0 for a full
            proof.
        seed: of the exact search.
        workers: threads of the exact search.
        explain: also split each policy's loss, see :mod:`eplb_opt.gap.attribution`, and
            :mod:`eplb_opt.gap.served_loss` for all but the sum under even dispatch. Each of the
            optima that this needs is searched for up to ``time_limit`` (None: 0.2 s, small layers
            10 s).
        serve_on: other loads for the same machine and rule. The policies see ``instance`` and are
            measured on these; the loss is also split, see :mod:`eplb_opt.gap.staleness`, and again
            :mod:`eplb_opt.gap.served_loss`. A limit of traffic holds on what the policies see;
            under ``optimal`` dispatch also here, step by step.
        travel: what traffic costs; then each layer has a time, see
            :func:`eplb_opt.gap.traffic.crossing_time`.
        policy_timeout: seconds for each call of a user's program, and for its import.
        policy_memory: bytes that a user's program may allocate.
        runner: runs the policies, in place of one with these two limits; for many instances.
        progress: called as the work goes on.

    Returns:
        A report with one reference a layer and one entry a policy, in the order given. A policy
        that fails has a status and a message; the others are measured all the same.

    Raises:
        ValueError: ``serve_on`` differs in machine, rule, layers or experts; or an objective over
            steps is asked for, and one of the two has no steps; or a time of a cost that has none.

    Example:
        >>> from eplb_opt import Topology
        >>> loads = [[600, 560, 120, 120, 20, 10, 10, 10]]
        >>> instance = Instance(loads, Topology(num_physical_experts=16, num_ranks=8))
        >>> report = measure_gap(instance, ["deepseek"])
        >>> str(report.reference[0].lower_bound), str(report.policies[0].layers[0].makespan)
        ('590/3', '232')
    """
    served = instance if serve_on is None else same_problem(instance, serve_on)
    cost = Cost.of(objective, dispatch)
    if travel is not None:
        check_travel(cost)
    for loads in (instance, served):
        cost.objective.check_steps(loads)
    named = named_policies(policies)
    seen = None if serve_on is None else instance.layers()
    work = _Work(served, instance.source, cost, [name for name, _ in named], seen, travel)
    limits = SearchOptions(time_limit, None, ratio("tolerance", tolerance), seed, workers)
    own = PolicyRunner(Limits(policy_timeout, policy_memory))
    try:
        with own if runner is None else nullcontext(runner) as running:
            work.place(running, named, instance, progress)
        compile_first = time_limit is None
        work.bound(_limited(limits, instance, 0.0), progress, compile_first=compile_first)
        if compile_first and (explain or serve_on is not None):
            needed = cost if cost == EVEN_SUM else cost._replace(dispatch=Dispatch.OPTIMAL)
            _compile(needed, progress, "losses", 0, instance.num_layers)
        search = _limited(limits, instance, EXPLAIN_TIME_LIMIT)
        work.split(search, progress, explain=explain)
        return work.report()
    except KeyboardInterrupt:
        return work.report(interrupted=True)


def _limited(limits: SearchOptions, instance: Instance, large: float) -> SearchOptions:
    """``limits``, without a time limit as long as such layers take; ``large`` if not small."""
    if limits.time_limit is not None:
        return limits
    return replace(limits, time_limit=SMALL_TIME_LIMIT if _is_small(instance) else large)


class _Traffic(NamedTuple):
    """The part of a layer's tokens that is served off home, and the times of :class:`LayerGap`."""

    part: Fraction | None
    time: float | None = None
    time_most: float | None = None


@dataclass(frozen=True)
class _Measured:
    """A policy's outcome before the reference is known, and by layer what its placement costs and
    its traffic: nothing if it failed.
    """

    outcome: PolicyGap
    values: tuple[Bracket, ...] = ()
    traffic: tuple[_Traffic, ...] = ()


def _compile(cost: Cost, progress: Progress, what: str, done: int, total: int) -> None:
    """What the searches compile once on a machine is said, and is no part of their time."""
    from solvers.compiled import compile_within
    from solvers.tree_search import steps
    from solvers.tree_search.count_vectors import compile_searches

    progress("compiling the searches, once on a machine", done, total)
    if cost == EVEN_SUM:
        compile_searches()
    else:
        even = cost.dispatch == Dispatch.EVEN
        compile_within(None, steps.rehearse_counts if even else steps.rehearse_sets)
    progress(what, done, total)


class _Work:
    """What is done so far, which Ctrl-C leaves as it is."""

    def __init__(
        self,
        instance: Instance,
        placed_on: str,
        cost: Cost,
        policies: Sequence[str],
        seen: Sequence[Layer] | None,
        travel: Travel | None,
    ) -> None:
        """``seen`` are the layers that the policies see, if others than those of ``instance``: then
        a limit of traffic that placement and shares keep is one of these alone.
        """
        self.instance, self.placed_on, self.cost = instance, placed_on, cost
        self.layers, self.seen = instance.layers(), seen
        if seen is not None and cost.dispatch != Dispatch.OPTIMAL:
            self.layers = [layer.without_limit() for layer in self.layers]
        self.policies, self.travel = policies, travel
        self.measured: list[_Measured] = []
        self.references: list[Reference] = []
        self.attribution: tuple[PolicySplit, ...] = ()
        self.staleness: tuple[PolicySplit, ...] = ()

    def place(
        self,
        runner: PolicyRunner,
        named: Sequence[tuple[str, AnyPolicy]],
        seen: Instance,
        progress: Progress,
    ) -> None:
        """Place with every policy, on the loads that they see."""
        for i, (name, policy) in enumerate(named):
            progress(name, i, len(named))
            outcome = _within_limit(_run_policy(runner, name, policy, seen), seen, self.cost)
            values = self._values(outcome)
            found = zip(self.layers, values, strict=False)
            traffic = tuple(self._traffic(layer, placed) for layer, placed in found)
            self.measured.append(_Measured(outcome, values, traffic))

    def _traffic(self, layer: Layer, placed: Bracket) -> _Traffic:
        """Of a placement as it is valued, and its time if that is asked for."""
        part = traffic_of(layer, placed.phy2log, self.cost, placed.shares)
        if self.travel is None or not layer.has_load:
            return _Traffic(part)
        loss = float(placed.incumbent / mean_load(layer, self.cost.objective)) - 1
        crossing = crossing_time(layer, placed.phy2log, self.travel, placed.shares)
        return _Traffic(part, *(loss + way for way in crossing))

    def _values(self, outcome: PolicyGap) -> tuple[Bracket, ...]:
        """What the placement costs on the served steps, by layer; nothing if there is none."""
        if outcome.placement is None:
            return ()
        placed = zip(self.layers, outcome.placement.phy2log.tolist(), strict=True)
        if self.seen is None or self.cost.dispatch != Dispatch.FIXED:
            return tuple(value(layer, phy2log, *self.cost) for layer, phy2log in placed)
        fitted = zip(self.seen, placed, strict=True)
        return tuple(_with_shares_of(seen, *served, self.cost) for seen, served in fitted)

    def bound(
        self, search: SearchOptions, progress: Progress, *, compile_first: bool = False
    ) -> None:
        """Find the references that are missing."""
        for i in range(len(self.references), len(self.layers)):
            step = ("reference", i, len(self.layers))
            progress(*step)
            compile_now = partial(_compile, self.cost, progress, *step)
            self._bound_next(search, compile_now if compile_first else None)
            if self.references[-1].bracket.limit == Limit.INTERRUPT:
                raise KeyboardInterrupt
        progress("reference", len(self.layers), len(self.layers))

    def _bound_next(
        self, search: SearchOptions, before_search: Callable[[], None] | None = None
    ) -> None:
        layer = self.layers[len(self.references)]
        known = [m.values[len(self.references)] for m in self.measured if m.values]
        found = find_reference(layer, known, self.cost, search, before_search=before_search)
        self.references.append(found)

    def split(self, search: SearchOptions, progress: Progress, *, explain: bool) -> None:
        """What the losses consist of."""
        ok = [m for m in self.measured if m.outcome.placement is not None]
        rows = {m.outcome.policy: _rows(m.outcome) for m in ok}
        interrupted = False
        if self.cost != EVEN_SUM and (explain or self.seen is not None):
            paid = {m.outcome.policy: [found.incumbent for found in m.values] for m in ok}
            placed = {policy: list(map(Placed, rows[policy], paid[policy])) for policy in rows}
            optimal = self.cost.dispatch == Dispatch.OPTIMAL
            best = [reference.bracket for reference in self.references] if optimal else None
            self.attribution, interrupted = served_loss.split_layers(
                self.layers, placed, self.cost, search, progress, self.seen, best, self._of_sum()
            )
        elif explain:
            self.attribution, interrupted = attribute_layers(
                self.layers, rows, search, progress, self._hierarchical()
            )
        if self.cost == EVEN_SUM and self.seen is not None and not interrupted:
            found = split_layers(self.seen, self.layers, rows, search, progress)
            self.staleness, interrupted = found
        if interrupted:
            raise KeyboardInterrupt

    def _of_sum(self) -> list[list[list[int]]]:
        """What our best policy places for the sum of the served steps, [L, P], if it can."""
        return _placed_best(self.instance)

    def _hierarchical(self) -> list[list[list[int]]]:
        """The same under the hierarchical rule, which the rule ``home`` is compared with."""
        if self.instance.rule != Rule.HOME:
            return []
        try:
            return _placed_best(under(self.instance, Rule.HIERARCHICAL))
        except ValueError:  # too few experts a node to keep replicas apart
            return []

    def report(self, *, interrupted: bool = False) -> GapReport:
        """All of it; what an interrupt left out has bounds alone and no policies."""
        while len(self.references) < len(self.layers):
            self._bound_next(SearchOptions(time_limit=0))
        missing = self.policies[len(self.measured) :]
        gaps = [_policy_gap(policy, self.references) for policy in self.measured]
        gaps += [PolicyGap(name, "error", INTERRUPTED) for name in missing]
        return GapReport(
            self.instance,
            tuple(self.references),
            tuple(gaps),
            interrupted,
            self.attribution,
            self.staleness,
            self.placed_on,
            self.cost,
            self.travel,
        )


def under(instance: Instance, rule: Rule, limit: Fraction | float | str = Fraction(1)) -> Instance:
    """The same loads and machine under another rule."""
    loads = instance.loads if instance.trace is None else instance.trace
    found = replace(instance, loads=loads, rule=rule, traffic_limit=limit)
    object.__setattr__(found, "numbers", instance.numbers)
    return found


def _placed_best(instance: Instance) -> list[list[list[int]]]:
    """[L, P], or nothing if our best policy has no placement."""
    try:
        run = load_policy(OF_SUM).run(instance, once=True)
    except PolicyError:  # it does not keep replicas apart, for instance
        return []
    return [run.placement.phy2log.tolist()]


def _run_policy(
    runner: PolicyRunner, name: str, policy: AnyPolicy, instance: Instance
) -> PolicyGap:
    try:
        run = runner.run(policy, instance)
    except PolicyTimeoutError as error:
        return PolicyGap(name, "timeout", str(error))
    except InvalidPlacementError as error:
        return PolicyGap(name, "invalid", str(error))
    except PolicyError as error:
        return PolicyGap(name, "error", str(error))
    return PolicyGap(
        name,
        "ok",
        runtime=run.runtime,
        placement=run.placement,
        first_call=run.first_call,
        import_time=run.import_time,
    )


def with_references(report: GapReport, references: Sequence[Reference]) -> GapReport:
    """The report where more is known of the optima, and its gaps to them."""
    loaded = [reference for reference in references if reference.status != "no-load"]
    policies = []
    for policy in report.policies:
        pairs = zip(policy.layers, loaded, strict=bool(policy.layers))
        layers = tuple(
            _layer_gap(old.makespan, _Traffic(old.traffic, old.time, old.time_most), new)
            for old, new in pairs
        )
        policies.append(replace(policy, layers=layers))
    return replace(report, reference=tuple(references), policies=tuple(policies))


def _within_limit(outcome: PolicyGap, seen: Instance, cost: Cost) -> PolicyGap:
    """``invalid`` if shares alike exceed a layer's limit of traffic; other dispatch keeps it."""
    if cost.dispatch != Dispatch.EVEN or not (rows := _rows(outcome)):
        return outcome
    above = [line for pair in zip(seen.layers(), rows, strict=True) if (line := over_limit(*pair))]
    if not above:
        return outcome
    more = f" (and {len(above) - 1} more)" if len(above) > 1 else ""
    return PolicyGap(outcome.policy, "invalid", above[0] + more)


def _rows(outcome: PolicyGap) -> list[list[int]]:
    """phy2log [L, P] of a policy that is ok."""
    return [] if outcome.placement is None else outcome.placement.phy2log.tolist()


def _with_shares_of(seen: Layer, served: Layer, phy2log: Sequence[int], cost: Cost) -> Bracket:
    """What the placement costs on the steps ``served`` with the shares fitted to those ``seen``."""
    shares = value(seen, phy2log, *cost).shares
    if shares is None:
        raise ValueError(f"{cost}: no shares of layer {seen.index}")
    paid = cost_of_shares(served, phy2log, shares, cost.objective)
    return Bracket(tuple(phy2log), paid, Fraction(0), "shares", shares=shares)


def _policy_gap(measured: _Measured, references: Sequence[Reference]) -> PolicyGap:
    layers = tuple(
        _layer_gap(found.incumbent, traffic, reference)
        for found, traffic, reference in zip(
            measured.values, measured.traffic, references, strict=False
        )
        if reference.status != "no-load"
    )
    return replace(measured.outcome, layers=layers)


def _layer_gap(makespan: Fraction, traffic: _Traffic, reference: Reference) -> LayerGap:
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
        *traffic,
    )
