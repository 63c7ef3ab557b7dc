"""Tables of losses that are split into terms, in points: percent of the mean rank load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eplb_opt.cli.output import table
from eplb_opt.gap.loss_split import interval_in_points, points

if TYPE_CHECKING:
    from eplb_opt.gap import GapReport
    from eplb_opt.gap.loss_split import PolicySplit

HOW_TO_READ = (
    "  in percent of the mean rank load, mean over {layers}; "
    "a .. b: proven to lie in between, rounded outwards"
)
ATTRIBUTION = (
    "why: total = granularity + rule + groups + counts + packing; "
    "own = the last three, the policy's mistakes"
)
AT_HOME = (
    "why: total = granularity + rule + placement, the policy's mistakes\n"
    "  beside it, what the hierarchical rule would cost: hierarchical = rule + recovered by copies "
    "that may be anywhere"
)
SERVED_LOSS = (
    "why, over the steps served: total = granularity + rule + constancy + {placement} + dispatch\n"
    "  constancy: one placement for all steps (EVPI); placement: experts on the wrong ranks; "
    "dispatch: tokens not shared best in each step"
)
STALE = (
    "\n  placement = optimality (on {seen}, above the best there) "
    "+ staleness (what other steps add)"
)
VSS = (
    "\n  vss, no part of it: what the best placement of the sum costs above the best for the steps "
    "(value of the stochastic solution)"
)
STALENESS = (
    "placed on {seen}, served {served}:\n"
    "  total = hindsight (the best placement for the served loads) + optimality (the policy above "
    "the best on what it saw)\n"
    "  + staleness (what the change of loads adds); regret = the last two"
)


def split_table(splits: Sequence[PolicySplit]) -> Any:
    """One row a policy: the total, the terms and their partial sums; at least one policy."""
    first = splits[0].mean
    sums = [f"= {name}" for name in first.sums]
    result = table("policy", "total", *first.terms, *sums, *first.beside)
    result.pad_edge = False  # the names of the built-in policies just fit
    for policy in splits:
        mean = policy.mean
        intervals = (*mean.terms.values(), *mean.sums.values(), *mean.beside.values())
        result.add_row(policy.policy, points(mean.total), *map(interval_in_points, intervals))
    return result


def why(report: GapReport) -> str:
    """The lines that say what the terms are."""
    from eplb_opt.problem.objective import EVEN_SUM

    if report.cost != EVEN_SUM:
        return served_loss(report)
    return AT_HOME if "placement" in report.attribution[0].mean.terms else ATTRIBUTION


def served_loss(report: GapReport) -> str:
    """The lines that say what the terms are of the loss over the steps served."""
    mean = report.attribution[0].mean
    stale = "staleness" in mean.terms
    lines = SERVED_LOSS.format(placement="optimality + staleness" if stale else "placement")
    lines += STALE.format(seen=report.placed_on) if stale else ""
    return lines + (VSS if mean.beside else "")


def how_to_read(splits: Sequence[PolicySplit], loaded: int) -> str:
    """The line that says what a number in such a table is; ``loaded`` layers have load."""
    done = len(splits[0].layers)
    some = f"only {done} of the " if done < loaded else ""
    return HOW_TO_READ.format(layers=f"{some}{loaded} layer{'s' * (loaded > 1)} with load")
