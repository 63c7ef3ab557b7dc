"""How far placements are from the best possible, and why."""

from eplb_opt.gap.measure import (
    SMALL_SLOTS,
    SMALL_TIME_LIMIT,
    TOLERANCE,
    GapReport,
    LayerGap,
    PolicyGap,
    Progress,
    Reference,
    describe_instance,
    measure_gap,
)

__all__ = [
    "SMALL_SLOTS",
    "SMALL_TIME_LIMIT",
    "TOLERANCE",
    "GapReport",
    "LayerGap",
    "PolicyGap",
    "Progress",
    "Reference",
    "describe_instance",
    "measure_gap",
]
