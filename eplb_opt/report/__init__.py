"""Reports: a page of HTML, and its figures for notebooks.

>>> from eplb_opt import Instance, Topology
>>> from eplb_opt.gap import measure_gap
>>> report = measure_gap(Instance([[4, 3, 2, 1]], Topology(6, 3)), ["deepseek", "refined"])
>>> summarize(report).policies["refined"].optimal
1
"""

from eplb_opt.report.figures import (
    plot_attribution,
    plot_gap,
    plot_gap_against_time,
    plot_heatmap,
    plot_proofs,
    plot_rank_loads,
    plot_served_loss,
)
from eplb_opt.report.frontiers import plot_frontier
from eplb_opt.report.page import page, write_page
from eplb_opt.report.replays import (
    plot_balancedness,
    plot_intervals,
    plot_tradeoff,
    plot_transfers,
)
from eplb_opt.report.summary import ReportError, Summary, summarize

__all__ = [
    "ReportError",
    "Summary",
    "page",
    "plot_attribution",
    "plot_balancedness",
    "plot_frontier",
    "plot_gap",
    "plot_gap_against_time",
    "plot_heatmap",
    "plot_intervals",
    "plot_proofs",
    "plot_rank_loads",
    "plot_served_loss",
    "plot_tradeoff",
    "plot_transfers",
    "summarize",
    "write_page",
]
