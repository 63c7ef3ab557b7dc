"""The replica counts that are worth a place in a model: those that could beat the incumbent."""

from __future__ import annotations

from fractions import Fraction

from eplb_opt.bounds.closed_form import Window, count_window
from eplb_opt.problem.layer import Layer


def choices(layer: Layer, window: Window) -> dict[int, range]:
    """The counts of each expert with load in the window."""
    return {
        e: range(least, min(least + window.spare, layer.most_replicas) + 1)
        for e, least in enumerate(window.least)
        if layer.loads[e]
    }


def window_below(layer: Layer, makespan: Fraction) -> Window:
    """The counts of all placements up to the makespan of a placement that exists."""
    window = count_window(layer, makespan)
    if isinstance(window, str):
        raise RuntimeError(f"{window} excludes the makespan {makespan} of an existing placement")
    return window
