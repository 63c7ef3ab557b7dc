"""Readers and writers of loads, on real files of every format."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from eplb_opt import Instance, Topology
from eplb_opt.io import FORMATS, FormatError, read_loads, write_loads

MATRIX = np.array([[3, 1, 2], [0, 5, 4]])
TRACE = np.stack([MATRIX, MATRIX * 10, MATRIX * 100, MATRIX * 1000])


def as_json(document):
    return lambda path: path.write_text(json.dumps(document))


def per_pass(rank, counts, phy2log, first_pass=0):
    return {
        "records": [
            {
                "forward_pass_id": first_pass + i,
                "rank": rank,
                "gatherer_key": "primary",
                "global_physical_count": torch.tensor(count, dtype=torch.int32),
            }
            for i, count in enumerate(counts)
        ],
        "last_physical_to_logical_map": torch.tensor(phy2log),
    }


def stat(path):
    content = {
        "rank": 0,
        "logical_count": torch.tensor(TRACE, dtype=torch.int32),
        "average_utilization_rate_over_window": None,
    }
    torch.save(content, path)


WRITERS = {
    "sglang-json": ("json", MATRIX, as_json({"logical_count": MATRIX.tolist()})),
    "sglang-json-trace": ("json", TRACE, as_json({"logical_count": TRACE.tolist()})),
    "adrs": (
        "json",
        TRACE,
        as_json({"load_history": [{"logical_expert_load": m.tolist()} for m in TRACE]}),
    ),
    "lists": ("json", MATRIX, as_json(MATRIX.tolist())),
    "json-bom": (
        "json",
        MATRIX,
        lambda path: path.write_bytes(b"\xef\xbb\xbf \n" + json.dumps(MATRIX.tolist()).encode()),
    ),
    "npy": ("npy", TRACE, lambda path: np.save(path.open("wb"), TRACE)),
    "npy-fortran": (
        "npy",
        MATRIX,
        lambda path: np.save(path.open("wb"), np.asfortranarray(MATRIX)),
    ),
    "npz": ("npz", MATRIX, lambda path: np.savez(path.open("wb"), anything=MATRIX)),
    "npz-named": ("npz", MATRIX, lambda path: np.savez(path.open("wb"), loads=MATRIX, ids=[1])),
    "csv": ("csv", MATRIX, lambda path: path.write_text("3,1,2\r\n\r\n0, 5,4\r\n", newline="")),
    "csv-column": ("csv", MATRIX[:, :1], lambda path: path.write_text("3\n0")),
    "sglang-stat": ("pt", TRACE, stat),
    "pt-tensor": ("pt", MATRIX, lambda path: torch.save(torch.tensor(MATRIX), path)),
    "pt-before-zip": (
        "pt",
        MATRIX,
        lambda path: torch.save(torch.tensor(MATRIX), path, _use_new_zipfile_serialization=False),
    ),
}


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


def trtllm(folder, ranks=2, num_experts=3):
    """Iterations 9 and 10 (as text: out of order), layers 3 and 4."""
    for rank in range(ranks):
        tensors = {
            f"{i}_{j}": np.array([i, j, rank], dtype=np.int64) for i in (9, 10) for j in (3, 4)
        }
        save_file(tensors, folder / f"rank{rank}.safetensors")
    meta = {"num_experts": num_experts, "num_experts_per_token": 2}
    (folder / "meta_info.json").write_text(json.dumps(meta))


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


@pytest.mark.parametrize("suffix", [".json", ".npy", ".npz", ".csv"])
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


def huge_npy(path):
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**6, 10**6)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)


def huge_npz(path):
    huge_npy(path)
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("loads.npy", content)


def save_npy(path):
    with path.open("wb") as stream:
        np.save(stream, MATRIX)


def truncated(write, size=-20):
    def shortened(path):
        write(path)
        path.write_bytes(path.read_bytes()[:size])

    return shortened


BAD_FILES = {
    "empty": (lambda p: p.touch(), "the file is empty"),
    "unknown": (lambda p: p.write_bytes(b"\x7fELF\0\0"), "not recognised; give one of json, npy"),
    "prose": (lambda p: p.write_text("hello"), "not recognised"),
    "other-zip": (lambda p: zipfile.ZipFile(p, "w").writestr("a", "b"), "not recognised"),
    "json-cut": (truncated(as_json([[1, 2]]), -1), "not a readable JSON"),
    "json-deep": (lambda p: p.write_text("[" * 100_000), "not a readable JSON"),
    "json-latin1": (lambda p: p.write_bytes(b'["\xe9"]'), "not a readable JSON document in UTF-8"),
    "json-ragged": (as_json([[1, 2], [3]]), "ragged"),
    "json-text": (as_json({"logical_count": [["a"]]}), "logical_count: layer 0, expert 0 is 'a'"),
    "json-null": (as_json([[1, None]]), "layer 0, expert 1 is None, which is neither an integer"),
    "json-true": (as_json([[1, True]]), "layer 0, expert 1 is True, which is neither an integer"),
    "json-huge": (
        as_json([[1, 2**64]]),
        "expert 1 is 18446744073709551616, which is bey",
    ),
    "json-uint64": (as_json([[2**63]]), "is 9223372036854775808, which is beyond 64 bits: divide"),
    "json-mixed": (
        as_json([[0.5, 2**53 + 1]]),
        "expert 1 is 9007199254740993, which is no float64",
    ),
    "json-large": (as_json([[2**63, 2**53 + 1, 2, 3]]), "expert 0 is 9223372036854775808, which"),
    "json-1e400": (
        lambda p: p.write_text("[[1, 1e400]]"),
        r"expert 1 is 1E\+400, which is neither",
    ),
    "json-digits": (lambda p: p.write_text("[[9007199254740993.0]]"), "9007199254740993.0, which"),
    "npy-longdouble": (
        lambda p: np.save(p.open("wb"), np.array([[1, 2**53 + 1]], dtype=np.longdouble)),
        "layer 0, expert 1 is 9007199254740993.0, which is no float64",
    ),
    "npy-uint64": (
        lambda p: np.save(p.open("wb"), np.array([[1, 2**63]], dtype=np.uint64)),
        "layer 0, expert 1 is 9223372036854775808, which is beyond 64 bits",
    ),
    "npy-bool": (lambda p: np.save(p.open("wb"), np.array([[True]])), "floats, not bool"),
    "json-keys": (as_json({"loads": [[1]]}), r"has the keys \['loads'\], expected logical_count"),
    "json-placement": (as_json({"physical_to_logical_map": [[0]]}), "is a placement, not loads"),
    "json-history": (as_json({"load_history": [{}]}), r"load_history\[0\] has no logical_expert"),
    "json-history-type": (as_json({"load_history": 3}), "load_history is int"),
    "json-vector": (as_json([1, 2]), r"shape \(2,\), not \[layers, experts\]"),
    "json-empty": (as_json([[]]), r"shape \(1, 0\)"),
    "npy-huge": (huge_npy, r"declares shape \(1000000, 1000000\) of int64"),
    "npy-cut": (truncated(save_npy), "declares shape .* but holds 28"),
    "npy-header-cut": (truncated(save_npy, 30), "not a readable .npy"),
    "npy-object": (
        lambda p: np.save(p.open("wb"), np.array([{}]), allow_pickle=True),
        "Python objects, refused as unsafe",
    ),
    "npy-complex": (lambda p: np.save(p.open("wb"), MATRIX * 1j), "not complex128"),
    "npz-huge": (huge_npz, "array 'loads' declares shape"),
    "npz-several": (
        lambda p: np.savez(p.open("wb"), a=MATRIX, b=MATRIX),
        r"arrays \['a', 'b'\]; name the one with the loads 'loads'",
    ),
    "npz-cut": (truncated(lambda p: np.savez(p.open("wb"), MATRIX)), "not a readable zip"),
    "csv-header": (lambda p: p.write_text("a,b\n1,2"), "line 1, column 1: 'a' .* header"),
    "csv-word": (lambda p: p.write_text("1,2\n3,x"), "line 2, column 2: 'x' is not a number$"),
    "csv-ragged": (lambda p: p.write_text("1,2\n3\n"), "line 2 has 1 columns, the first has 2"),
    "csv-mixed": (lambda p: p.write_text("1\n.5\n9007199254740993"), "layer 2, expert 0 is 9007"),
    "csv-1e400": (lambda p: p.write_text("1,1e400"), r"layer 0, expert 1 is 1E\+400, which is ne"),
    "csv-1_000": (lambda p: p.write_text("1,1_000"), "line 1, column 2: '1_000' is not a number"),
    "csv-true": (lambda p: p.write_text("1,2\nTrue,2"), "line 2, column 1: 'True' is not a numbe"),
    "csv-nan": (lambda p: p.write_text("1,2\nnan,2"), "line 2, column 1: 'nan' is not a number"),
    "csv-latin1": (lambda p: p.write_bytes(b"1,\xe9"), "not a readable CSV file in UTF-8"),
    "pt-numpy": (
        lambda p: torch.save({"logical_count": MATRIX}, p),
        r"safe loading refuses; save it again as torch.save",
    ),
    "pt-keys": (lambda p: torch.save({"a": 1}, p), r"has the keys \['a'\], expected logical_count"),
    "pt-cut": (truncated(stat), "not a readable zip"),
    "pt-list": (lambda p: torch.save({"logical_count": [[1], []]}, p), "ragged"),
    "pt-no-map": (lambda p: torch.save({"records": []}, p), "no last_physical_to_logical_map"),
    "pt-no-records": (lambda p: torch.save(per_pass(0, [], [[0]]), p), "records is empty"),
    "pt-record-shape": (
        lambda p: torch.save(per_pass(0, [[[1, 2]]], [[0]]), p),
        r"records\[0\].global_physical_count is int32 \(1, 2\), expected integers \(1, 1\)",
    ),
    "pt-map-range": (lambda p: torch.save(per_pass(0, [[[1]]], [[7]]), p), "names expert 7"),
    "safetensors-key": (lambda p: save_file({"w": MATRIX[0]}, p), "key 'w' is not"),
    "safetensors-grid": (
        lambda p: save_file(dict.fromkeys(("0_0", "0_1", "1_0"), MATRIX[0]), p),
        "key '1_1' is missing",
    ),
    "safetensors-ragged": (
        lambda p: save_file({"0_0": MATRIX[0], "0_1": MATRIX[0, :2]}, p),
        "'0_1' has 2 experts, others 3",
    ),
    "safetensors-uint64": (
        lambda p: save_file({"0_0": np.array([2**63], dtype=np.uint64)}, p),
        "step 0, layer 0, expert 0 is 9223372036854775808, which is beyond 64 bits",
    ),
    "safetensors-cut": (
        truncated(lambda p: save_file({"0_0": MATRIX[0]}, p)),
        "not a readable .safetensors",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gets_one_line_that_names_it(name, tmp_path):
    write, message = BAD_FILES[name]
    path = tmp_path / "bad"
    write(path)
    with pytest.raises(FormatError, match=message) as caught:
        read_loads(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save(Malicious(), tmp_path / "a.pt")
    with pytest.raises(FormatError, match="safe loading refuses"):
        read_loads(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def test_missing_files_and_unknown_formats(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_loads(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="not recognised"):
        read_loads(tmp_path)
    with pytest.raises(FormatError, match="format='xls' is unknown; choose one of json"):
        read_loads(tmp_path / "nowhere", format="xls")


@pytest.mark.parametrize("fmt", ["json", "npy", "npz", "csv", "pt", "safetensors"])
def test_a_directory_is_not_read_as_a_file(fmt, tmp_path):
    with pytest.raises((FormatError, OSError), match=str(tmp_path)):
        read_loads(tmp_path, format=fmt)


def test_incomplete_directories(tmp_path):
    rank0, rank1 = tmp_path / "0.pt", tmp_path / "1.pt"
    torch.save(per_pass(0, [[[1]], [[1]]], [[0]]), rank0)
    torch.save(per_pass(1, [[[1]]], [[0]]), rank1)
    with pytest.raises(FormatError, match="forward pass 1 has no record of rank 1"):
        read_loads(tmp_path)
    torch.save(per_pass(0, [[[1]]], [[0]]), rank1)
    with pytest.raises(
        FormatError, match=r"records\[0\]: rank 0 has recorded forward pass 0 before"
    ):
        read_loads(tmp_path)
    torch.save(per_pass(1, [[[1, 2]]], [[0, 1]]), rank1)
    with pytest.raises(FormatError, match="differs from that of the file before"):
        read_loads(tmp_path)
    stat(rank1)
    with pytest.raises(FormatError, match=r"every \.pt file is one rank's per-pass dump"):
        read_loads(tmp_path)


def test_inconsistent_tensorrt_llm_directories(tmp_path):
    trtllm(tmp_path, num_experts=4)
    with pytest.raises(FormatError, match="num_experts=4, but the rank files hold 3"):
        read_loads(tmp_path)
    save_file({"9_3": MATRIX[0]}, tmp_path / "rank1.safetensors")
    with pytest.raises(FormatError, match="do not both have key '9_4'"):
        read_loads(tmp_path)
    for rank in (0, 1):
        (tmp_path / f"rank{rank}.safetensors").unlink()
    with pytest.raises(FormatError, match="has no rank"):
        read_loads(tmp_path)


def test_sums_over_ranks_that_exceed_64_bits_are_refused_by_their_place(tmp_path):
    trtllm(tmp_path, ranks=4)
    for rank in range(4):
        tensors = {f"{i}_{j}": np.array([1, 1, 2**62 * (j == 4)]) for i in (9, 10) for j in (3, 4)}
        save_file(tensors, tmp_path / f"rank{rank}.safetensors")
    with pytest.raises(FormatError, match="step 0, layer 1, expert 2 is 18446744073709551616, "):
        read_loads(tmp_path)


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


FORMAT_OF = {name: fmt for name, (fmt, _, _) in WRITERS.items()} | {
    "safetensors": "safetensors",
    "per-pass": "pt",
}
ORIGINALS = (
    "sglang-json",
    "adrs",
    "npy",
    "npz",
    "csv",
    "sglang-stat",
    "pt-before-zip",
    "safetensors",
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    contents = {}
    for name in ORIGINALS:
        path = folder / name
        if name == "safetensors":
            save_file({"0_0": MATRIX[0], "0_1": MATRIX[1]}, path)
        else:
            WRITERS[name][2](path)
        contents[name] = path.read_bytes()
    contents["per-pass"] = _per_pass_bytes(folder / "per-pass")
    return contents


def _per_pass_bytes(path):
    torch.save(per_pass(0, [[[1, 2]], [[3, 4]]], [[0, 1]]), path)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", [*ORIGINALS, "per-pass"])
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_corrupted_bytes_raise_nothing_but_format_errors(name, originals, tmp_path, data):
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    path = tmp_path / "corrupted"
    path.write_bytes(content)
    fmt = data.draw(st.sampled_from([None, FORMAT_OF[name], *FORMATS]))
    with contextlib.suppress(FormatError, OSError):
        loads = read_loads(path, format=fmt).loads
        assert loads.ndim in (2, 3)
        assert loads.dtype in (np.int64, np.float64)


def mangled(content: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut, repeated, moved; numbers made huge."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 5)):
        at, kind = chance.randrange(len(data) or 1), chance.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del data[at : at + chance.randint(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randint(1, 200)]
        elif kind == 3:
            data[at : at + 8] = chance.randbytes(8)
        elif kind == 4:
            digits = [i for i, byte in enumerate(data) if 48 <= byte < 58]
            if digits:
                i = chance.choice(digits)
                data[i : i + 1] = b"9" * chance.choice([1, 7, 12, 18, 30])
        else:
            data = data[:at]
    return bytes(data)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_readers_survive_mangled_files_for_a_while(originals, tmp_path):
    import resource

    seconds = float(os.environ.get("EPLB_FUZZ_SECONDS", "60"))
    chance, path, tried, read = random.Random(seconds), tmp_path / "mangled", 0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = chance.choice(list(originals))
        content = mangled(originals[name], chance)
        path.write_bytes(content)
        start = time.monotonic()
        try:
            loads = read_loads(path, format=chance.choice([None, FORMAT_OF[name], *FORMATS])).loads
            assert loads.ndim in (2, 3)
            read += 1
        except (FormatError, OSError):
            pass
        except BaseException:
            print(f"seed {seconds}, file {tried}, from {name}: {content[:300]!r}")
            raise
        tried += 1
        assert time.monotonic() - start < 5, content[:300]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 2**20, (grown, content[:300])  # kilobytes: 1 GB
    print(f"{tried} files, {read} of them still readable")
    assert read < tried


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
    from eplb_opt.io import FORMATS

    (option,) = [p for p in command.params if p.name == "format"]
    assert list(option.type.choices) == list(FORMATS)
