"""How far placements are from the best possible, and why."""

from eplb_opt.gap.frontier import Frontier, measure_frontier
from eplb_opt.gap.loss_split import Progress
from eplb_opt.gap.measure import SMALL_SLOTS, SMALL_TIME_LIMIT, measure_gap, usual_tolerance
from eplb_opt.gap.outcome import GapReport, LayerGap, PolicyGap
from eplb_opt.gap.reference import Reference

__all__ = [
    "SMALL_SLOTS",
    "SMALL_TIME_LIMIT",
    "Frontier",
    "GapReport",
    "LayerGap",
    "PolicyGap",
    "Progress",
    "Reference",
    "measure_frontier",
    "measure_gap",
    "usual_tolerance",
]
