from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eplb_opt import Instance, Topology
from eplb_opt.policies.names import (
    InvalidPlacementError,
    PolicyError,
    arguments,
    load_policy,
)
from eplb_opt.policies.runner import PolicyRunner
from eplb_opt.problem.objective import Cost
from heuristics.policies import refined
from heuristics.steps import dispatch_aware
from tests.eplb_opt.policies import user_programs

FILE = Path(__file__).with_name("user_programs.py")
SLOTS = [[0, 1, 2, 3, 0, 1]] * 2
INSTANCE = Instance([[4, 3, 2, 1], [1, 2, 3, 4]], Topology(6, 3))


def run(function: str, instance: Instance = INSTANCE):
    return load_policy(f"{FILE}:{function}").run(instance).placement


@pytest.mark.parametrize("function", ["rebalance_experts", "new_vllm", "Engine.place", "noisy"])
def test_user_programs_of_every_form(function: str) -> None:
    assert run(function).phy2log.tolist() == [[0, 1, 2, 3, 0, 1]] * 2


def test_function_defaults_to_rebalance_experts() -> None:
    policy = load_policy(str(FILE))
    assert policy.name == str(FILE)
    assert policy.run(INSTANCE).placement.phy2log.shape == (2, 6)


def test_prints_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    run("noisy")
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("progress: 100 %\n")


def test_input_is_the_policy_s_own() -> None:
    run("writes_into_its_input")
    assert INSTANCE.loads.tolist() == [[4, 3, 2, 1], [1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("returns_none", "phy2log"),
        ("returns_nothing", "returned nothing"),
        ("returns_floats", "must hold integers, not float64"),
        ("one_slot_short", r"shape \(2, 5\), expected \(2, 6\)"),
        ("misses_an_expert", r"layer 0: expert 0 has no replica \(and 1 more\)"),
        ("wrong_counts", "logcnt is not the number of replicas"),
        ("wrong_slots", "layer 0: log2phy of expert 0 is not the slots"),
        ("flat_slots", r"log2phy has shape \(4, 6\), expected \[L, E, X\]"),
    ],
)
def test_invalid_answers(function: str, message: str) -> None:
    with pytest.raises(InvalidPlacementError, match=message):
        run(function)


def test_group_rule_is_checked() -> None:
    hierarchical = Instance([[1, 2, 3, 4]], Topology(8, 4, 2, 2))
    with pytest.raises(InvalidPlacementError, match="group 0 has replicas on nodes"):
        run("rebalance_experts", hierarchical)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", r"RuntimeError: shape mismatch: \(user_programs\.py, line \d+\)$"),
        ("exits", "SystemExit: 3"),
    ],
)
def test_exceptions_become_one_line(function: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        run(function)
    assert not isinstance(caught.value, InvalidPlacementError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("depseek", r"unknown policy 'depseek' \(did you mean deepseek\?\): give one of deepseek"),
        (
            "nope",
            "unknown policy 'nope': give one of .*, refined\\[:N.* 'greedy \\+ snake'",
        ),
        ("refined:٣", r"'refined:٣' is not refined\[:N\|:relabel\] with N transfers a layer"),
        ("deepseek:4", r"unknown policy 'deepseek:4' .*: give one of .*, or FILE.py"),
        ("refined:some", r"'refined:some' is not refined\[:N"),
        ("greedy + best", "packing 'best' is not one of lpt"),
        ("missing.py", "no such file: missing.py"),
        (f"{FILE}:nothing", "user_programs.py has no 'nothing'"),
        (f"{FILE}:Engine.nothing", "has no 'Engine.nothing'"),
        (f"{FILE}:NOT_A_FUNCTION", "is not a function"),
    ],
)
def test_programs_that_cannot_be_loaded(name: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        load_policy(name)


@pytest.mark.parametrize("body", ["1 +", "import no_such_module", "raise SystemExit"])
def test_files_that_cannot_be_imported(tmp_path: Path, body: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(body)
    with pytest.raises(PolicyError, match=r"importing .*broken.py failed"):
        load_policy(str(path))


def test_two_files_of_one_name_do_not_mix(tmp_path: Path) -> None:
    for folder, value in (("a", "[[0, 1]]"), ("b", "[[1, 0]]")):
        (tmp_path / folder).mkdir()
        text = f"import numpy as np\n\ndef rebalance_experts(*_):\n    return np.array({value})\n"
        (tmp_path / folder / "policy.py").write_text(text)
    instance = Instance([[1, 2]], Topology(2, 1))
    both = [load_policy(str(tmp_path / f / "policy.py")) for f in "ab"]
    assert [p.run(instance).placement.phy2log.tolist() for p in both] == [[[0, 1]], [[1, 0]]]


def test_a_plus_in_a_path_joins_no_stages(tmp_path: Path) -> None:
    path = tmp_path / "a+b.py"
    path.write_text("def rebalance_experts(*_):\n    return [[0, 1]]\n")
    assert load_policy(str(path)).run(Instance([[1, 2]], Topology(2, 1))).placement


@pytest.mark.parametrize(
    "function", [user_programs.rebalance_experts, user_programs.Engine.place, lambda *_: SLOTS]
)
def test_functions(function: Callable[..., Any]) -> None:
    policy = load_policy(function)
    assert policy.name == function.__qualname__
    assert policy.run(INSTANCE).placement.phy2log.tolist() == SLOTS


OLD = [[0, 1, 2, 3, 2, 3]] * 2


def test_a_function_is_given_the_old_placement_only_where_it_must_be() -> None:
    given: list[Any] = []

    def takes_it(weight, slots, groups, nodes, ranks, old):  # noqa: ARG001
        given.append(old)
        return SLOTS

    def may_take_it(*given_to_it: Any, old: Any = None) -> Any:
        given.append((len(given_to_it), old))
        return SLOTS

    for function in (takes_it, may_take_it):
        load_policy(function).run(INSTANCE, np.array(OLD), once=True)
    assert given[0].tolist() == OLD
    assert given[1:] == [(5, None)]


def test_built_in_policies_are_always_given_the_old_placement() -> None:
    old = np.array(OLD)
    few = load_policy("refined:1").run(INSTANCE, old).placement.phy2log
    weight = torch.tensor(INSTANCE.loads, dtype=torch.float32)
    expected = refined(weight, 6, 1, 1, 3, old=torch.tensor(old), move_budget=1)
    assert few.tolist() == expected.tolist()
    kept = [load_policy("refined").run(INSTANCE, x).placement.phy2log for x in (None, old)]
    assert (kept[0] == kept[1]).all()


@pytest.mark.filterwarnings("error")
def test_loads_beyond_float32_are_named() -> None:
    """It was a warning of NumPy, and a policy that spoke of NaN."""
    instance = Instance([[1e300, 2, 3]], Topology(4, 2))
    with pytest.raises(PolicyError, match=r"sum to 1e\+300, and policies see them in float32"):
        arguments(instance)


TRACE = Instance([[[1, 2, 3, 4]], [[9, 0, 0, 1]], [[2, 2, 2, 2]]], Topology(6, 3))


def test_a_policy_that_takes_steps_sees_them() -> None:
    """In this process and in its own; without a trace there is one step."""
    file = f"{FILE}:from_heaviest_step"
    policy = load_policy(file)
    with PolicyRunner() as runner:
        for instance, first in ((TRACE, 1), (Instance(TRACE.loads, TRACE.topology), 0)):
            expected = [(first + p) % 4 for p in range(6)]
            for run in (policy.run(instance), runner.run(file, instance)):
                assert run.placement.phy2log.tolist() == [expected]


def test_a_built_in_policy_for_steps_sees_them_and_draws_them_around_a_single_one() -> None:
    """The sum, (12, 4, 5, 7), is another problem."""
    sizes, fast = (6, 1, 1, 3), partial(dispatch_aware, effort="fast")
    steps = torch.from_numpy(np.asarray(TRACE.trace, dtype=np.float32))
    for instance, weight in (
        (TRACE, steps),
        (Instance(TRACE.loads, TRACE.topology), steps.sum(0)),
        (Instance(TRACE.loads[None], TRACE.topology), steps.sum(0)),
    ):
        run = load_policy("dispatch-aware:fast").run(instance, once=True)
        assert run.placement.phy2log.tolist() == fast(weight, *sizes).tolist()


def test_what_a_policy_minimizes() -> None:
    for name, cost in {
        "dispatch-aware:fast:40": ("mean", "optimal"),
        "robust": ("mean", "even"),
        "robust:fast:worst:40": ("worst", "even"),
        "robust:thorough:cvar:0.1": ("cvar:0.1", "even"),
        "lplb-graph:ring": ("sum", "optimal"),
        "refined": ("sum", "even"),
        f"{FILE}:from_heaviest_step": ("mean", "even"),
        f"{FILE}:for_the_worst_step": ("worst", "optimal"),
        f"{FILE}:new_vllm": ("sum", "even"),
    }.items():
        assert load_policy(name).cost == Cost.of(*cost)
    with PolicyRunner() as runner:
        assert runner.cost_of("robust:worst") == Cost.of("worst", "even")
        for policy in (f"{FILE}:for_the_worst_step", user_programs.for_the_worst_step):
            assert runner.cost_of(policy) == Cost.of("worst", "optimal")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("place.take_steps = True", r"take_steps is not read: write place\.takes_steps = True"),
        ("place.takes_step = True", r"takes_step is not read: write place\.takes_steps = True"),
        ("takes_steps = True", r"takes_steps is not read: write place\.takes_steps = True"),
        ("place.takes_steps = 1", "place.takes_steps=1 is neither True nor False"),
        ("place.takes_steps, place.objective = True, 'best'", "place.objective='best' is not one"),
        ("place.takes_steps, place.dispatch = True, 'odd'", "place.dispatch='odd' is not one of"),
    ],
)
def test_what_a_file_says_of_steps_is_not_ignored(line: str, message: str, tmp_path: Path) -> None:
    """A misspelt attribute was: the policy was given the sum, without a word."""
    (tmp_path / "mine.py").write_text(f"def place(*_):\n    pass\n\n\n{line}\n")
    with pytest.raises(PolicyError, match=message):
        load_policy(f"{tmp_path / 'mine.py'}:place")
    (tmp_path / "mine.py").write_text("def place(*_): pass\ntake_steps = lambda: 0\n")
    assert not load_policy(f"{tmp_path / 'mine.py'}:place").takes_steps
