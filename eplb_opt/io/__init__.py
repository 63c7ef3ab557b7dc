"""Files: recorded loads in, placements out, and synthetic loads calibrated on recordings."""

from eplb_opt.io.errors import FormatError
from eplb_opt.io.loads import (
    FORMATS,
    RecordedLoads,
    detect_format,
    join_steps,
    read_loads,
    write_loads,
)
from eplb_opt.io.placed_for import PlacedFor
from eplb_opt.io.placements import (
    read_placed_for,
    read_placements,
    write_placements,
    write_sglang_placement,
    write_trtllm_placement,
)

__all__ = [
    "FORMATS",
    "FormatError",
    "PlacedFor",
    "RecordedLoads",
    "detect_format",
    "join_steps",
    "read_loads",
    "read_placed_for",
    "read_placements",
    "write_loads",
    "write_placements",
    "write_sglang_placement",
    "write_trtllm_placement",
]
