from pathlib import Path

import pytest

from eplb_opt import Instance, Topology
from eplb_opt.policies.names import InvalidPlacementError, PolicyError, load_policy

FILE = Path(__file__).with_name("user_programs.py")
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
    [("raises", "RuntimeError: shape mismatch:$"), ("exits", "SystemExit: 3")],
)
def test_exceptions_become_one_line(function: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        run(function)
    assert not isinstance(caught.value, InvalidPlacementError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("depseek", "unknown policy 'depseek': give one of deepseek"),
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
