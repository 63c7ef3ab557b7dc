"""Readers and writers of loads, on real files of every format."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from eplb_opt import Instance, Topology
from eplb_opt.io import FORMATS, FormatError, read_loads, write_loads
from eplb_opt.io.loads import ENCODERS
from tests.eplb_opt.io.files import MATRIX, TRACE, WRITERS, per_pass, trtllm


@pytest.mark.parametrize("name", WRITERS)
def test_the_content_tells_the_format_and_integers_stay_integers(name, tmp_path):
    fmt, expected, write = WRITERS[name]
    path = tmp_path / "recording.dat"
    write(path)
    recorded = read_loads(path)
    assert (recorded.format, recorded.source, recorded.layers) == (fmt, str(path), None)
    assert recorded.loads.dtype == np.int64
    np.testing.assert_array_equal(recorded.loads, expected)
    np.testing.assert_array_equal(read_loads(path, format=fmt).loads, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_floats_become_float64(dtype, tmp_path):
    torch.save({"logical_count": torch.tensor([[0.5, 2.0]], dtype=dtype)}, tmp_path / "a.pt")
    loads = read_loads(tmp_path / "a.pt").loads
    assert loads.dtype == np.float64
    assert loads.tolist() == [[0.5, 2.0]]


def test_per_pass_files_are_summed_over_ranks_and_replicas(tmp_path):
    phy2log = [[0, 1, 2, 0], [2, 1, 0, 1]]
    first = [[[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 0, 0, 0], [0, 0, 0, 1]]]
    second = [[[10, 0, 0, 0], [0, 10, 0, 0]], [[0, 0, 0, 7], [0, 0, 7, 0]]]
    torch.save(per_pass(0, first, phy2log, 12), tmp_path / "expert_distribution_recorder_1_0.pt")
    torch.save(per_pass(1, second, phy2log, 12), tmp_path / "expert_distribution_recorder_1_1.pt")
    recorded = read_loads(tmp_path)
    assert recorded.format == "pt"
    assert recorded.loads.tolist() == [[[15, 2, 3], [7, 24, 5]], [[8, 0, 0], [7, 1, 0]]]
    one_rank = read_loads(tmp_path / "expert_distribution_recorder_1_0.pt")
    assert one_rank.loads.tolist() == [[[5, 2, 3], [7, 14, 5]], [[1, 0, 0], [0, 1, 0]]]


def test_tensorrt_llm_directory_is_summed_over_ranks(tmp_path):
    trtllm(tmp_path)
    save_file({"9_3": np.eye(3)}, tmp_path / "cooccurrence_rank0.safetensors")
    recorded = read_loads(tmp_path)
    assert (recorded.format, recorded.layers) == ("safetensors", (3, 4))
    assert recorded.loads.tolist() == [[[18, 6, 1], [18, 8, 1]], [[20, 6, 1], [20, 8, 1]]]
    assert read_loads(tmp_path / "rank1.safetensors").loads[1, 0].tolist() == [10, 3, 1]


@pytest.mark.parametrize(
    ("steps", "kept"),
    [((1, 3), [1, 2]), ((None, 2), [0, 1]), ((-1, None), [3]), ((0, 4), [0, 1, 2, 3])],
)
def test_steps_are_a_slice_of_the_trace(steps, kept, tmp_path):
    write_loads(tmp_path / "a.npy", TRACE)
    cut = read_loads(tmp_path / "a.npy", steps=steps).loads
    np.testing.assert_array_equal(cut, TRACE[kept])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((2, 2), "steps=2:2 holds none of the 4 steps"),
        ((0, 5), "steps=0:5 reaches beyond the 4 steps"),
        ((-9, None), "steps=-9: reaches beyond the 4 steps"),
    ],
)
def test_steps_that_do_not_fit(steps, message, tmp_path):
    write_loads(tmp_path / "a.npy", TRACE)
    with pytest.raises(FormatError, match=message):
        read_loads(tmp_path / "a.npy", steps=steps)


def test_steps_need_a_time_axis(tmp_path):
    write_loads(tmp_path / "a.npy", MATRIX)
    with pytest.raises(FormatError, match="steps=:1 needs a time axis"):
        read_loads(tmp_path / "a.npy", steps=(None, 1))


@pytest.mark.parametrize("suffix", ENCODERS)
@pytest.mark.parametrize("values", [MATRIX, MATRIX / 7, TRACE])
def test_what_is_written_is_read_back(suffix, values, tmp_path):
    path = tmp_path / f"loads{suffix}"
    if suffix == ".csv" and values.ndim == 3:
        with pytest.raises(ValueError, match=r"not shape \(4, 2, 3\)"):
            write_loads(path, values)
        assert not path.exists()
        return
    write_loads(path, values)
    loads = read_loads(path).loads
    assert loads.dtype == values.dtype
    np.testing.assert_array_equal(loads, values)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_writing_refuses_other_suffixes_and_keeps_the_old_file(tmp_path):
    with pytest.raises(ValueError, match=r"suffix '.txt' is not one of .json"):
        write_loads(tmp_path / "a.txt", MATRIX)
    write_loads(tmp_path / "a.csv", MATRIX)
    with pytest.raises(ValueError, match="layer 0, expert 0 is 'x', which is neither"):
        write_loads(tmp_path / "a.csv", [["x"]])
    with pytest.raises(ValueError, match="NaN or infinity are not written"):
        write_loads(tmp_path / "a.csv", [[float("nan")]])
    np.testing.assert_array_equal(read_loads(tmp_path / "a.csv").loads, MATRIX)


def test_sums_over_ranks_and_replicas_that_fit_64_bits_are_exact(tmp_path):
    large = 2**63 - 5
    for rank, count in enumerate([[large, 1, 0], [1, 0, 2]]):
        content = per_pass(rank, [[[0, 0, 0]]], [[0, 1, 0]])
        content["records"][0]["global_physical_count"] = torch.tensor([count])
        torch.save(content, tmp_path / f"{rank}.pt")
    assert read_loads(tmp_path).loads.tolist() == [[[large + 3, 1]]]
    content["records"][0]["global_physical_count"] = torch.tensor([[3, 0, 2]])
    torch.save(content, tmp_path / "1.pt")
    with pytest.raises(FormatError, match="step 0, layer 0, expert 0 is 9223372036854775808, "):
        read_loads(tmp_path)


FLOATS = st.floats(0, allow_infinity=False)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
@given(loads=st.lists(st.one_of(FLOATS, st.integers(0, 2**53)), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_decimal_means_its_nearest_float(loads, suffix, tmp_path):
    """So what Python writes of a float is read back, whether it has an exponent or not."""
    path = tmp_path / f"a{suffix}"
    text = ",".join(map(repr, loads))
    path.write_text(f"[[{text}]]" if suffix == ".json" else text)
    assert read_loads(path).loads.tolist() == [loads]


def test_importing_the_readers_imports_no_framework():
    code = (
        "import sys, eplb_opt.io;"
        "print([m for m in ('torch', 'safetensors', 'yaml', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recorded_traces_are_instances(tmp_path):
    write_loads(tmp_path / "a.json", TRACE)
    instance = Instance(read_loads(tmp_path / "a.json", steps=(0, 2)).loads, Topology(4, 2))
    np.testing.assert_array_equal(instance.loads, MATRIX * 11)


def test_the_command_line_offers_every_format():
    from eplb_opt.cli.convert import command

    (option,) = [p for p in command.params if p.name == "format"]
    assert list(option.type.choices) == list(FORMATS)


def test_recordings_are_joined_as_steps(tmp_path):
    from tests.command_line import eplb_opt

    write_loads(tmp_path / "a.json", MATRIX)
    write_loads(tmp_path / "b.npy", TRACE)
    np.savez(tmp_path / "c.npz", steady=TRACE * 2, topics=MATRIX * 0.5)
    sources = ("a.json", "b.npy", "c.npz:topics", "c.npz:steady")
    done = eplb_opt("convert", *sources, "-o", "t.npy", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = np.concatenate([MATRIX[None], TRACE, MATRIX[None] * 0.5, TRACE * 2])
    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), wanted)
    assert eplb_opt("convert", "a.json", "-o", "d.npy", cwd=tmp_path).returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), MATRIX)
