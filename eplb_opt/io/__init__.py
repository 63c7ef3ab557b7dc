"""Files: recorded loads in, placements out, and synthetic loads calibrated on recordings."""

from eplb_opt.io.errors import FormatError
from eplb_opt.io.loads import FORMATS, RecordedLoads, detect_format, read_loads, write_loads

__all__ = ["FORMATS", "FormatError", "RecordedLoads", "detect_format", "read_loads", "write_loads"]
