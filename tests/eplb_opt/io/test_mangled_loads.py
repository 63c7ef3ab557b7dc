"""Files of loads with bytes changed: read, or refused in a line."""

import contextlib
import os
import random
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from eplb_opt.io import FORMATS, FormatError, read_loads
from tests.eplb_opt.io.files import MATRIX, WRITERS, per_pass

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
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
