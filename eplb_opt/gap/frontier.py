r"""Balance against traffic: the same policies on the same loads under one rule after another.

From the tightest to the loosest: hierarchical, ``home`` with each limit of traffic in rising order,
``home`` with any traffic, global. Every placement that one of them allows the next allows, too, so
the optima of a layer fall along this line. What a rule itself costs is its optimum over the mean
rank load; what a policy adds is its gap to that optimum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import cycle, pairwise
from statistics import fmean
from typing import Any

from eplb_opt.gap.loss_split import Progress
from eplb_opt.gap.measure import measure_gap, under, with_references
from eplb_opt.gap.outcome import GapReport
from eplb_opt.policies.names import AnyPolicy, named_policies
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.shown import Shown, ShowsItself, percent
from eplb_opt.problem.topology import Rule

COLUMNS = ("rule", "policy", "bound over mean", "loss", "mean gap", "traffic", "largest")
"""What is shown of a policy under a rule."""


@dataclass(frozen=True, repr=False)
class Frontier(ShowsItself):
    """Reports of the same policies on the same loads, from the tightest rule to the loosest.

    Attributes:
        reports: hierarchical, ``home`` by rising limit, ``home`` with any traffic, global; fewer if
            Ctrl-C came.
        interrupted: Ctrl-C ended the work early.
    """

    reports: tuple[GapReport, ...]
    interrupted: bool = False

    @property
    def worse_than_hierarchical(self) -> tuple[str, ...]:
        """A line for each policy that costs more in a layer under a rule ``home`` than under the
        hierarchical rule, all of whose placements that rule allows.
        """
        lines = []
        for report in self.reports[1:]:
            if report.instance.rule != Rule.HOME:
                continue
            for before, after in zip(self.reports[0].policies, report.policies, strict=True):
                pairs = zip(before.layers, after.layers, strict=False)
                found = [b.layer for a, b in pairs if a.makespan < b.makespan]
                if found:
                    lines.append(
                        f"{after.policy}: worse under {name_of(report)} than under hierarchical in "
                        f"{len(found)} of {len(after.layers)} layers, for instance {found[0]}"
                    )
        return tuple(lines)

    def _shown(self) -> Shown:
        """Each policy under each rule."""
        heading = f"Frontier({len(self.reports)} rules{', interrupted' * self.interrupted})"
        rows = [
            (
                name_of(report),
                policy.policy,
                percent(bound_over_mean(report)),
                percent(policy.loss_mean),
                percent(policy.gap_mean),
                percent(policy.traffic_mean),
                percent(policy.traffic_max),
            )
            for report in self.reports
            for policy in report.policies
        ]
        return Shown(heading, COLUMNS, rows)


def measure_frontier(
    instance: Instance,
    limits: Iterable[Fraction | float | str],
    policies: AnyPolicy | Iterable[AnyPolicy] = ("refined",),
    *,
    serve_on: Instance | None = None,
    progress: Progress = lambda _what, _done, _total: None,
    **options: Any,
) -> Frontier:
    """Measure the policies under the hierarchical rule, under the rule ``home`` with each limit of
    traffic and without one, and under the global rule.

    Args:
        instance: loads and machine; its rule and limit do not matter.
        limits: of traffic, from 0 to 1, in any order.
        policies: as of :func:`eplb_opt.gap.measure_gap`.
        serve_on: likewise.
        progress: called as the work goes on.
        options: all others of :func:`eplb_opt.gap.measure_gap`.

    Returns:
        The reports; on Ctrl-C those so far, the last of them interrupted.

    Raises:
        ValueError: a limit is none, nodes do not divide the groups, or as of ``measure_gap``.

    Example:
        >>> from eplb_opt import Topology
        >>> machine = Topology(6, 2, num_nodes=2, num_groups=2)
        >>> frontier = measure_frontier(Instance([[6, 2, 1, 1]], machine), [0.25], "deepseek")
        >>> [(str(r.instance.rule), str(r.instance.traffic_limit)) for r in frontier.reports]
        [('hierarchical', '1'), ('home', '1/4'), ('home', '1'), ('global', '1')]
    """
    named = [policy for _, policy in named_policies(policies)]
    given = list(limits)
    served = (None,) if serve_on is None else rules_of(serve_on, given)
    reports: list[GapReport] = []
    interrupted = False
    try:
        for rule, serve in zip(rules_of(instance, given), cycle(served), strict=False):
            tell = _under_rule(rule, progress)
            reports.append(measure_gap(rule, named, serve_on=serve, progress=tell, **options))
            if interrupted := reports[-1].interrupted:
                break
    except KeyboardInterrupt:
        if not reports:
            raise
        interrupted = True
    return Frontier(tuple(_share_references(reports)), interrupted)


def _share_references(reports: Sequence[GapReport]) -> Iterator[GapReport]:
    """Bounds hold under all tighter rules, and placements under all looser ones."""
    brackets = [[reference.bracket for reference in report.reference] for report in reports]
    for tight, loose in pairwise(range(len(reports))):
        pairs = zip(brackets[tight], brackets[loose], strict=True)
        brackets[loose] = [b.with_placement(a) for a, b in pairs]
    for tight, loose in reversed([*pairwise(range(len(reports)))]):
        pairs = zip(brackets[tight], brackets[loose], strict=True)
        brackets[tight] = [a.with_bound(b.bound, b.source, b.evidence) for a, b in pairs]
    for report, known in zip(reports, brackets, strict=True):
        found = zip(report.reference, known, strict=True)
        yield with_references(report, [replace(old, bracket=new) for old, new in found])


def _under_rule(instance: Instance, progress: Progress) -> Progress:
    """Says under which rule the work is."""
    return lambda what, done, total: progress(f"{_name(instance)}: {what}", done, total)


def rules_of(instance: Instance, limits: Iterable[Fraction | float | str]) -> Iterator[Instance]:
    """The same loads and machine under each rule, from the tightest to the loosest.

    Raises:
        ValueError: a limit is none, or nodes do not divide the groups.
    """
    unlimited = under(instance, Rule.HOME)
    given = [under(instance, Rule.HOME, limit).traffic_limit for limit in limits]
    limited = sorted({Fraction(limit) for limit in given} - {Fraction(1)})
    yield under(instance, Rule.HIERARCHICAL)
    yield from (under(instance, Rule.HOME, limit) for limit in limited)
    yield unlimited
    yield under(instance, Rule.GLOBAL)


def name_of(report: GapReport) -> str:
    """The rule of a report with its limit of traffic: ``home 0.05``."""
    return _name(report.instance)


def bound_over_mean(report: GapReport) -> float | None:
    """What the rule itself costs at least: proven bound over mean rank load, less 1, mean over
    layers with load; None if there are none.
    """
    found = [float(r.lower_bound / r.mean_load) - 1 for r in report.reference if r.mean_load]
    return fmean(found) if found else None


def _name(instance: Instance) -> str:
    limit = Fraction(instance.traffic_limit)
    return str(instance.rule) + f" {float(limit):.15g}" * (limit < 1)
