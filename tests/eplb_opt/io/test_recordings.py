"""The readers on recordings of real models, where they are at hand."""

import numpy as np
import pytest

from eplb_opt.io import read_loads


@pytest.mark.parametrize(
    ("name", "fmt", "shape", "dtype"),
    [
        ("gpt_oss_20b_windows.npy", "npy", (70, 24, 32), np.int64),
        ("qwen15_moe_steps.npy", "npy", (40, 12, 60), np.int64),
        ("olmoe_domains.npy", "npy", (8, 3, 64), np.float64),
        ("deepseek_v3/prefill_in2048.json", "json", (61, 256), np.float64),
        ("deepseek_v3/decode_in2000out100.json", "json", (61, 256), np.float64),
    ],
)
def test_shapes_and_totals(recorded, name, fmt, shape, dtype):
    found = read_loads(recorded / name)
    assert (found.format, found.loads.shape) == (fmt, shape)
    assert found.loads.dtype == dtype
    assert (found.loads >= 0).all()
    if fmt == "json":
        assert np.flatnonzero(found.loads.sum(axis=1) == 0).tolist() == [0, 1, 2]
