"""Files that are no loads: one line that names file and place."""

import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from eplb_opt.io import FormatError, read_loads
from tests.eplb_opt.io.files import MATRIX, as_json, per_pass, stat, trtllm


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
        r"arrays \['a', 'b'\]: choose one as ",
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
