"""Files of loads in every format, for the readers."""

import json

import numpy as np
import torch
from safetensors.numpy import save_file

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


def trtllm(folder, ranks=2, num_experts=3):
    """Iterations 9 and 10 (as text: out of order), layers 3 and 4."""
    for rank in range(ranks):
        tensors = {
            f"{i}_{j}": np.array([i, j, rank], dtype=np.int64) for i in (9, 10) for j in (3, 4)
        }
        save_file(tensors, folder / f"rank{rank}.safetensors")
    meta = {"num_experts": num_experts, "num_experts_per_token": 2}
    (folder / "meta_info.json").write_text(json.dumps(meta))
