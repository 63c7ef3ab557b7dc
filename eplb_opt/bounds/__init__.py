"""Proven lower bounds on the makespan of a layer, by argument alone: no search, no solver."""

from eplb_opt.bounds.closed_form import (
    Bound,
    Window,
    count_window,
    global_bound,
    groups_bound,
    lower_bound,
    mean_load,
    packing_bound,
    refute,
    threshold,
    threshold_counts,
)

__all__ = [
    "Bound",
    "Window",
    "count_window",
    "global_bound",
    "groups_bound",
    "lower_bound",
    "mean_load",
    "packing_bound",
    "refute",
    "threshold",
    "threshold_counts",
]
