"""The frontier of balance and traffic as people see it: a row for each rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eplb_opt.cli.output import percent, table

if TYPE_CHECKING:
    from eplb_opt.gap import Frontier, GapReport, PolicyGap

HOW_TO_READ = (
    "bound: what the rule itself costs at least; loss: what a placement costs, both over the mean "
    "rank load; gap: of a placement to the bound;\n"
    "  traffic: part of the tokens served off their group's home, mean and largest of a layer; all "
    "others are means over {layers}"
)
TIME = (
    "  time: loss and the way of tokens to nodes, over the expert work at the mean rank load, if "
    "experts of a token are drawn by load; up to: if each one off home is a visit more"
)
WIDEST = 12
"""Figures of policies beside each other; more of them take several tables."""


def frontier_tables(found: Frontier) -> list[Any]:
    """The line that says what the numbers are, the tables, and what should not be."""
    from eplb_opt.gap.frontier import bound_over_mean, name_of

    loaded = sum(reference.status != "no-load" for reference in found.reports[0].reference)
    parts: list[Any] = [HOW_TO_READ.format(layers=f"{loaded} layer{'s' * (loaded > 1)} with load")]
    timed = found.reports[0].travel is not None
    figures = ["loss", "gap", "traffic", "largest"] + ["time", "up to"] * timed
    parts += [TIME] * timed
    names = [policy.policy for policy in found.reports[0].policies]
    abreast = WIDEST // len(figures)
    for first in range(0, len(names), abreast):
        shown = slice(first, first + abreast)
        columns = [f"{name}\n{figure}" for name in names[shown] for figure in figures]
        rows = table("rule", "bound", *columns)
        for report in found.reports:
            cells = [
                cell for policy in report.policies[shown] for cell in _figures(policy, len(figures))
            ]
            rows.add_row(name_of(report), percent(bound_over_mean(report)), *cells)
        parts.append(rows)
    return parts + _failed(found.reports) + list(found.worse_than_hierarchical)


def _figures(policy: PolicyGap, number: int) -> list[str]:
    if policy.status != "ok":
        return [policy.status, *["-"] * (number - 1)]
    off_home = (policy.traffic_mean, policy.traffic_max, policy.time_mean, policy.time_most_mean)
    return list(map(percent, (policy.loss_mean, policy.gap_mean, *off_home)))[:number]


def _failed(reports: tuple[GapReport, ...]) -> list[str]:
    """Why policies have no figures."""
    from eplb_opt.gap.frontier import name_of

    return [
        f"{name_of(report)}: {policy.policy}: {policy.status}: {policy.message}"
        for report in reports
        for policy in report.policies
        if policy.status != "ok"
    ]
