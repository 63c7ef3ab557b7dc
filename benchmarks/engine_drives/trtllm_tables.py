"""The cases of TensorRT-LLM's C++ test of placement, read from its source, on a policy of ours.

For ``engine_tests.py``. The test itself compiles with CUDA. Its replication cases name the replica
counts, which a policy must meet; its placement cases name counts as well, and how far the loads of
two ranks may lie apart, which must hold for the counts that the policy chooses.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from heuristics import rebalance_experts

POLICY = os.environ["EPLB_OPT_POLICY"]
SOURCE = "cpp/tests/unit_tests/runtime/moeLoadBalancerTest.cpp"
NUMBERS = r"\{([^}]*)\}"


def cases(kind: str, last: str) -> list:
    """(E, S, G, loads, ``last``) of each case of one kind."""
    text = Path(os.environ["EPLB_OPT_ENGINE_TESTS_FOLDER"], SOURCE).read_text()
    text = re.sub(r"//[^\n]*", "", text)
    sizes, space = r"(\d+),\s*" * 3, r",\s*"
    pattern = rf'{kind}TestParam\{{{sizes}{NUMBERS}{space}{last}{space}"([^"]*)"\}}'
    return [pytest.param(int(E), int(S), int(G), numbers(loads), numbers(rest), id=name)
            for E, S, G, loads, rest, name in re.findall(pattern, text)]  # fmt: skip


def numbers(text: str) -> list[float]:
    return [float(number.strip().rstrip("f")) for number in text.split(",")]


def place(loads: list[float], S: int, G: int):
    if not POLICY:
        pytest.skip("C++ with CUDA, not built")
    weight = torch.tensor([loads])
    phy2log, _, counts = rebalance_experts(weight, S * G, 1, 1, G, policy=POLICY)
    return (weight[0] / counts[0])[phy2log[0]].view(G, S).sum(1), counts[0]


@pytest.mark.parametrize(("E", "S", "G", "loads", "expected"), cases("Replication", NUMBERS))
def test_replication(E, S, G, loads, expected):
    _, counts = place(loads, S, G)
    assert counts.tolist() == expected


PLACEMENTS = cases("Placement", rf"(?:{NUMBERS.replace('(', '(?:')}),\s*([\d.]+)")


@pytest.mark.parametrize(("E", "S", "G", "loads", "apart"), PLACEMENTS)
def test_placement(E, S, G, loads, apart):
    ranks, _ = place(loads, S, G)
    assert (ranks.max() - ranks.min()).item() <= apart[0] + 1e-5
