"""The same bodies without numba give the same answers, and an interrupt keeps what is known."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.topology import Topology
from solvers.dispatch import value
from solvers.options import Budget, SearchOptions
from solvers.tree_search import joint, packing

PROGRAM = """
import json
from dataclasses import replace
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.topology import Topology
from solvers.local_search.improve import improve
from solvers.options import Budget
from solvers.tree_search.joint import solve_joint
from solvers.tree_search.packing import solve_packing

def answers():
    layer = Instance([[97, 61, 45, 30, 30, 22, 9, 5]], Topology(12, 3)).layer(0)
    tied = Instance([[8, 8, 8, 8, 4, 4, 0]], Topology(9, 3)).layer(0)
    found = []
    for problem, counts in ((layer, (3, 2, 2, 1, 1, 1, 1, 1)), (tied, (2, 2, 1, 1, 1, 1, 1))):
        for spread in (False, True):
            spread_problem = replace(problem, spread_replicas=spread)
            found.append(improve(spread_problem, rounds=4, seed=1))
            for result in (
                solve_joint(spread_problem, Budget()),
                solve_packing(spread_problem, counts, Budget()),
            ):
                found.append([str(result.value), str(result.bound), result.placement])
    return found

if __name__ == "__main__":
    print(json.dumps(answers()))
"""


def test_without_numba_the_answers_are_the_same():
    namespace = {"__name__": "compiled_run"}
    exec(PROGRAM, namespace)
    blocked = "import sys; sys.modules['numba'] = None\n"
    hidden = "import importlib.util as u; f = u.find_spec\n" + (
        "u.find_spec = lambda name, *a: None if name == 'numba' else f(name, *a)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", hidden + blocked + PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert json.loads(run.stdout) == json.loads(json.dumps(namespace["answers"]()))


@pytest.fixture
def hard_layer():
    loads = np.random.default_rng(3).integers(1, 5000, 24)
    return Instance([loads], Topology(32, 8)).layer(0)


def interrupt(*_arguments):
    raise KeyboardInterrupt


def test_interrupted_joint_search_keeps_incumbent_and_bound(hard_layer, monkeypatch):
    monkeypatch.setattr(joint, "search", interrupt)
    result = joint.solve_joint(hard_layer, Budget())
    assert result.limit == "interrupt"
    assert result.bound < result.value == value(hard_layer, result.placement).incumbent


def test_interrupted_packing_keeps_incumbent_and_bound(hard_layer, monkeypatch):
    monkeypatch.setattr(packing, "advance", interrupt)
    counts = [2] * 8 + [1] * 16
    result = packing.solve_packing(hard_layer, counts, Budget())
    assert result.limit == "interrupt"
    assert result.bound < result.value == value(hard_layer, result.placement).incumbent


def test_time_limit_is_a_result(hard_layer):
    result = joint.solve_joint(hard_layer, Budget(SearchOptions(time_limit=0.05)))
    assert result.limit == "time"
    assert result.bound <= result.value
