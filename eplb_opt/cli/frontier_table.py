"""The frontier of balance and traffic as people see it: a row for each rule."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from eplb_opt.cli.output import fits, percent, table

if TYPE_CHECKING:
    from rich.table import Table

    from eplb_opt.gap import Frontier, PolicyGap

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


def frontier_tables(found: Frontier) -> list[Any]:
    """The line that says what the numbers are, the tables, and what should not be."""
    loaded = sum(reference.status != "no-load" for reference in found.reports[0].reference)
    parts: list[Any] = [HOW_TO_READ.format(layers=f"{loaded} layer{'s' * (loaded > 1)} with load")]
    timed = found.reports[0].travel is not None
    figures = ["loss", "gap", "traffic", "largest"] + ["time", "up to"] * timed
    parts += [TIME] * timed
    return parts + _tables(found, figures) + list(found.worse_than_hierarchical)


def _tables(found: Frontier, figures: list[str]) -> list[Any]:
    """As many policies beside each other as fit; else each in a table under its name."""
    names = [policy.policy for policy in found.reports[0].policies]
    for abreast in range(len(names), 0, -1):
        starts = range(0, len(names), abreast)
        tables = [_table(found, slice(i, i + abreast), figures) for i in starts]
        if fits(*tables):
            return tables
    parts: list[Any] = []
    for i, name in enumerate(names):
        rows = _table(found, slice(i, i + 1), figures, named=False)
        if not fits(rows):
            rows.padding = 0  # of a cell; one column is left between two
        parts += [name, rows]
    return parts


def _table(found: Frontier, shown: slice, figures: list[str], *, named: bool = True) -> Table:
    """A row for each rule; columns ``named`` by some of the policies."""
    from eplb_opt.gap.frontier import bound_over_mean, name_of

    names = [f"{policy.policy}\n" * named for policy in found.reports[0].policies[shown]]
    rows = table("rule", "bound", *[name + figure for name in names for figure in figures])
    for report in found.reports:
        by_policy = [_figures(policy, len(figures)) for policy in report.policies[shown]]
        rows.add_row(name_of(report), percent(bound_over_mean(report)), *chain(*by_policy))
    return rows


def _figures(policy: PolicyGap, number: int) -> list[str]:
    if policy.status != "ok":
        return [policy.status, *["-"] * (number - 1)]
    off_home = (policy.traffic_mean, policy.traffic_max, policy.time_mean, policy.time_most_mean)
    return list(map(percent, (policy.loss_mean, policy.gap_mean, *off_home)))[:number]
