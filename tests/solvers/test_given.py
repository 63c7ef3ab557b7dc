"""What is handed to solve is checked before work: one message each, and nothing is ignored."""

import re
from fractions import Fraction

import numpy as np
import pytest

from eplb_opt import Instance, Layer, Topology
from eplb_opt.problem.validity import layer_violation
from solvers import BACKENDS, Stages, solve
from solvers.engines import mip
from solvers.options import SearchOptions

GLOBAL = Instance([[600, 560, 120, 120, 20, 10, 10, 10]], Topology(16, 8)).layer(0)
NODES = Instance(
    [[600, 560, 120, 120, 20, 10, 10, 10]], Topology(16, 8, 2, 4), rule="hierarchical"
).layer(0)
SPREAD = Instance([[1000, 5, 1]], Topology(6, 2), spread_replicas=True).layer(0)

WRONG = {
    "initial-of-one-expert": (GLOBAL, {"initial": [0] * 16}, "initial=(0, 0, 0"),
    "initial-too-short": (GLOBAL, {"initial": [0, 1]}, "initial has 2 entries, expected 16"),
    "initial-of-floats": (GLOBAL, {"initial": [0.5] * 16}, "initial=[0.5, 0.5"),
    "initial-against-the-rule": (NODES, {"initial": [*range(8)] * 2}, "K/N whole groups"),
    "initial-for-packing": (GLOBAL, {"initial": [*range(8)] * 2, "stage": "packing"}, "initial: "),
    "counts-of-another-sum": (
        GLOBAL,
        {"stage": "packing", "given": Stages(counts=[1] * 8)},
        "given.counts sum to 8, not to num_physical_experts=16",
    ),
    "counts-of-zero": (
        GLOBAL,
        {"stage": "packing", "given": Stages(counts=[0, 4, *[2] * 6])},
        "given.counts[0]=0",
    ),
    "counts-too-few": (
        GLOBAL,
        {"stage": "packing", "given": Stages(counts=[16])},
        "given.counts has 1 entries, expected 8",
    ),
    "counts-for-joint": (GLOBAL, {"given": Stages(counts=[2] * 8)}, "given.counts: stage='joint'"),
    "counts-and-their-limits": (
        GLOBAL,
        {"stage": "packing", "given": Stages(counts=[2] * 8, most=[2] * 8)},
        "drop one",
    ),
    "counts-that-miss-their-node": (
        NODES,
        {
            "stage": "packing",
            "given": Stages(counts=[9, 1, 1, 1, 1, 1, 1, 1], node_of_group=[0, 0, 1, 1]),
        },
        "given.counts need 12 of the 8 slots of node 0",
    ),
    "counts-for-the-stage-that-finds-them": (
        GLOBAL,
        {"stage": "counts", "given": Stages(counts=[2] * 8)},
        "given.counts: stage='counts' takes",
    ),
    "limits-that-cannot-be-met": (
        GLOBAL,
        {"stage": "counts", "given": Stages(most=[1] * 8)},
        "given.most allow 8 replicas for the 16 slots",
    ),
    "nodes-under-the-global-rule": (
        GLOBAL,
        {"stage": "packing", "given": Stages(node_of_group=[0])},
        "given.node_of_group: the global rule has no groups",
    ),
    "nodes-too-few": (
        NODES,
        {"stage": "packing", "given": Stages(node_of_group=[0, 1])},
        "given.node_of_group has 2 entries, expected 4",
    ),
    "nodes-with-too-many-groups": (
        NODES,
        {"stage": "counts", "given": Stages(node_of_group=[0, 0, 0, 1])},
        "puts 3 groups on node 0, expected 2",
    ),
    "a-whole-instance": (Instance([[1, 2]], Topology(2, 1)), {}, "problem is of type Instance"),
    "negative-time": (GLOBAL, {"time_limit": -1}, "time_limit=-1"),
    "time-that-is-no-number": (GLOBAL, {"time_limit": float("nan")}, "time_limit=nan"),
    "negative-work": (GLOBAL, {"work_limit": -1}, "work_limit=-1"),
    "negative-tolerance": (GLOBAL, {"tolerance": -0.5}, "tolerance=-0.5"),
    "endless-tolerance": (GLOBAL, {"tolerance": float("inf")}, "tolerance=inf"),
    "no-workers": (GLOBAL, {"workers": 0}, "workers=0"),
    "a-seed-beyond-31-bits": (GLOBAL, {"seed": 2**40}, "seed=1099511627776"),
    "limits-twice": (GLOBAL, {"time_limit": 1, "search": SearchOptions(5)}, "search= holds"),
    "a-tolerance-over-nothing": (GLOBAL, {"tolerance": "1/0"}, "tolerance='1/0'"),
    "more-workers-than-any-machine": (GLOBAL, {"workers": 2**31}, "workers=2147483648"),
    "a-number-for-all-limits": (GLOBAL, {"search": 5}, "search=5"),
    "a-mapping-of-decisions": (GLOBAL, {"given": {}}, "given={}"),
    "progress-that-is-no-function": (GLOBAL, {"progress": 5}, "progress=5"),
    "a-list-of-stages": (GLOBAL, {"stage": ["joint"]}, "stage=['joint']"),
    "a-list-of-backends": (GLOBAL, {"backend": []}, "backend=[]"),
    "an-unknown-stage": (GLOBAL, {"stage": "all"}, "stage='all'"),
    "an-unknown-backend": (GLOBAL, {"backend": "magic"}, "backend='magic'"),
    "an-unknown-dispatch": (GLOBAL, {"dispatch": "odd"}, "dispatch='odd'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_message_names_field_and_value(case: str) -> None:
    layer, arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        solve(layer, **arguments)
    assert "\n" not in str(error.value)


def test_arrays_are_sequences() -> None:
    start, counts = np.arange(16) % 8, np.full(8, 2)
    assert solve(GLOBAL, initial=start).status == "optimal"
    found = solve(GLOBAL, stage="packing", given=Stages(counts=counts))
    assert found.counts == (2,) * 8
    nodes = solve(NODES, stage="counts", given=Stages(node_of_group=np.array([1, 0, 1, 0])))
    assert nodes.node_of_group == (1, 0, 1, 0)


@pytest.mark.parametrize("layer", [GLOBAL, NODES], ids=["global", "hierarchical"])
def test_a_solve_is_no_worse_than_where_it_starts(layer: Layer) -> None:
    best = solve(layer)
    again = solve(layer, initial=best.placement, work_limit=0)
    assert again.objective == best.objective
    assert layer_violation(layer, again.placement) is None


@pytest.mark.parametrize("backend", [b for b in BACKENDS["joint"] if b not in mip.ENGINES])
def test_no_backend_forgets_where_it_starts(backend: str) -> None:
    layer = Instance([[10, 18]], Topology(4, 2)).layer(0)
    best = solve(layer, initial=[0, 1, 1, 0], backend=backend, work_limit=1)
    assert best.objective == 14


@pytest.mark.parametrize("limit", [{"time_limit": 10**400}, {"work_limit": 10**400}], ids=str)
def test_a_limit_beyond_all_limits_is_none(limit: dict[str, int]) -> None:
    layer = Instance([[9, 5, 3, 1]], Topology(6, 2)).layer(0)
    for backend in ("portfolio", "cp-sat", "scipy"):
        assert solve(layer, backend=backend, **limit).status == "optimal"


@pytest.mark.parametrize("stage", ["packing", "joint"])
def test_enumeration_within_a_limit_has_a_placement(stage: str) -> None:
    nodes = Instance([[4, 3, 2, 1]], Topology(8, 4, 2, 2), spread_replicas=True).layer(0)
    result = solve(nodes, stage=stage, backend="brute-force", work_limit=0)
    assert layer_violation(nodes, result.placement) is None


def test_counts_never_exceed_what_spread_replicas_allows() -> None:
    limits = Stages(least=[2, 1, 1], most=[4, 3, 5])
    result = solve(SPREAD, stage="counts", given=limits)
    assert (result.counts, result.objective) == ((2, 2, 2), 500)
    found = solve(SPREAD, stage="packing", given=limits)
    assert found.counts == (2, 2, 2)


def test_counts_that_cannot_be_spread_are_infeasible() -> None:
    result = solve(SPREAD, stage="packing", given=Stages(counts=[4, 1, 1]))
    assert (result.status, result.objective, result.placement) == ("infeasible", None, None)


@pytest.mark.parametrize("stage", ["groups", "counts", "packing", "joint"])
def test_every_stage_tells_its_progress(stage: str) -> None:
    told: list[tuple[Fraction, Fraction]] = []
    result = solve(NODES, stage=stage, progress=lambda *pair: told.append(pair))
    assert told[-1] == (result.objective, result.lower_bound)


@pytest.mark.parametrize("backend", ["portfolio", "search", "cp-sat"])
@pytest.mark.parametrize("stage", ["packing", "joint"])
def test_a_tolerance_is_kept_and_said(stage: str, backend: str) -> None:
    loads = np.random.default_rng(3).integers(1, 5000, 16)
    layer = Instance([loads], Topology(20, 5)).layer(0)
    tolerance = Fraction(1, 20)
    result = solve(layer, stage=stage, backend=backend, tolerance=tolerance, time_limit=60)
    assert result.objective <= result.lower_bound * (1 + tolerance)
    assert (result.status, result.limit) == ("feasible", "tolerance")
