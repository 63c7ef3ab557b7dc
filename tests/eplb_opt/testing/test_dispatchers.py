from __future__ import annotations

import itertools
import json
import runpy
from collections import Counter
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from eplb_opt import Topology
from eplb_opt.policies.dispatchers import DispatcherRunner
from eplb_opt.policies.names import InvalidPlacementError, PolicyTimeoutError
from eplb_opt.policies.process import Limits
from eplb_opt.testing import assert_dispatcher
from eplb_opt.testing.contracts import Finding
from eplb_opt.testing.dispatchers import measure_dispatch, run_dispatcher_suite
from eplb_opt.testing.dispatchers.attack import hunt_dispatch
from eplb_opt.testing.dispatchers.cases import cases, ring
from eplb_opt.testing.dispatchers.contracts import Asked
from eplb_opt.testing.dispatchers.measure import (
    dealt_tokens,
    even_limits,
    even_shares,
    makespans,
    optima,
)
from eplb_opt.testing.dispatchers.suite import _contracts
from heuristics.dispatch import shares, whole
from heuristics.dispatch.rules import SHARE_RULES
from tests.command_line import eplb_opt
from tests.eplb_opt import broken_dispatchers as broken
from tests.oracles import steps as oracle

FILE = Path(broken.__file__)


def failures(dispatcher: object, **options: object) -> dict[str, str]:
    findings: list[Finding] = list(run_dispatcher_suite(dispatcher, **options))  # type: ignore[arg-type]
    assert len(findings) >= len(cases())
    told: dict[str, str] = {}
    for finding in findings:
        if finding.message:
            told.setdefault(finding.check.partition(":")[0], finding.message)
    return told


@pytest.mark.parametrize("dispatcher", [broken.shares, broken.dealt])
def test_good_dispatchers_pass(dispatcher) -> None:
    assert_dispatcher(dispatcher)


def whole_of_shares(loads, phy2log, num_ranks):
    return whole(loads, phy2log, shares(loads, phy2log, num_ranks), num_ranks)


@pytest.mark.parametrize("dispatcher", [shares, whole_of_shares])
def test_the_dispatchers_here_pass_near_the_optimum(dispatcher) -> None:
    assert_dispatcher(dispatcher, gap_below=0.002)


@pytest.mark.parametrize(
    ("function", "check", "message"),
    [
        ("sums_to_99_percent", "valid", "expert 0: 0.99 is the sum of its shares, not 1"),
        ("negative_share", "valid", "slot .*: -0.25 is negative"),
        ("not_a_number", "valid", "slot 0: nan is not finite"),
        ("wrong_shape", "valid", r"the answer has shape \[9, 3, 11\], not"),
        ("no_numbers", "valid", "returned a dict, not numbers"),
        ("drops_a_token", "counts met", "whole tokens for its slots, not its load"),
        ("token_to_another_expert", "counts met", "whole tokens for its slots, not its load"),
        ("first_slot_serves_all", "never above even", "with even shares, in"),
        ("stale_placement", "another placement", "is the sum of its shares, not 1"),
        ("returns_a_tuple", "valid", r"the answer is a tuple, not one tensor \[\.\.\., L, P\]"),
        ("remembers", "deterministic", "two calls gave different answers"),
        ("random_rounding", "deterministic", "two calls gave different answers"),
        ("writes_into_loads", "input untouched", "wrote into its input"),
        ("sorts_the_placement", "input untouched", "wrote into its input"),
        ("other_shares_alone", "a batch is its steps", "alone has other rank loads"),
        ("needs_floats", "loads in int64", "softmax"),
        ("needs_contiguous", "strided tensors", "RuntimeError"),
        ("divides_by_the_load", "valid", "is not finite"),
        ("needs_steps", "loads [L, E] without steps", "ValueError"),
    ],
)
def test_each_fault_is_found_by_the_check_for_it(function, check, message) -> None:
    found = failures(getattr(broken, function))
    assert check in found
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[check])
    if "contracts" in found:
        assert "input untouched" not in found
    else:  # and by no other, but what it breaks besides
        besides = {"first_slot_serves_all", "needs_steps", "remembers", "random_rounding"}
        assert set(found) == {check} or function in besides


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (lambda loads, _G: loads.ndim == 3 and len(loads) > 32, "many steps and layers"),
        (lambda loads, _G: loads.shape[-2] > 6, "many steps and layers"),
        (lambda loads, _G: (loads > 1.1e6).any(), "many tokens"),
        (lambda loads, _G: loads.shape[-1] > 256, "320 experts"),
        (lambda loads, _G: (loads != loads.round()).any(), "fractional loads"),
        (lambda loads, _G: loads.dtype == torch.float64, "loads in float64"),
        (lambda _loads, G: G in {3, 5}, "3 ranks"),
        (lambda _loads, G: G == 16, "16 ranks"),
        (lambda _loads, G: G == 24, "24 ranks"),
    ],
)
def test_a_fault_at_some_sizes_only_is_found(wrong, check) -> None:
    """The first slot of each expert serves all its tokens."""

    def dispatcher(loads, phy2log, num_ranks):
        bad = wrong(loads, num_ranks)
        return (broken.first_slot_serves_all if bad else broken.shares)(loads, phy2log, num_ranks)

    findings = _contracts(Asked(DispatcherRunner(dispatcher)), {})
    found = {finding.check for finding in findings if finding.message}
    assert check in found
    assert found <= {check, "5 ranks"}


def test_one_fault_is_told_once() -> None:
    """Not again for every dtype and corner, and a cause before what comes of it."""
    assert set(failures(broken.first_slot_serves_all)) == {"never above even"}

    def writes(loads, phy2log, num_ranks):
        loads[..., 0] = 0
        return broken.first_slot_serves_all(loads, phy2log, num_ranks)

    assert list(failures(writes)) == ["input untouched", "never above even"]
    findings = list(run_dispatcher_suite(broken.no_numbers))  # type: ignore[arg-type]
    assert [finding.message for finding in findings[1 : len(cases())]] == ["as above"] * 6


def test_an_assertion_names_all_that_failed() -> None:
    with pytest.raises(AssertionError, match=r"deterministic: .*two calls"):
        assert_dispatcher(broken.random_rounding)
    with pytest.raises(AssertionError, match=r"gap at most 1.0000%: .*above the optimum"):
        assert_dispatcher(broken.shares, gap_below=0.01)


def test_one_dispatcher_against_another_and_a_file_of_gaps(tmp_path: Path) -> None:
    gaps = tmp_path / "gaps.json"
    assert failures(broken.shares, never_worse_than="even", baseline=gaps) == {}
    kept = gaps.read_text()
    found = failures(broken.first_slot_serves_all, never_worse_than=broken.shares, baseline=gaps)
    assert "tokens over the steps, but" in found["never worse than shares"]
    assert "has become" in found["gaps have not risen"]
    assert gaps.read_text() == kept


def test_an_interrupt_keeps_the_gaps_measured(tmp_path: Path) -> None:
    gaps, calls = tmp_path / "gaps.json", itertools.count()

    def interrupted(*arguments):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return broken.shares(*arguments)

    with pytest.raises(KeyboardInterrupt):
        failures(interrupted, baseline=gaps)
    kept = json.loads(gaps.read_text())
    assert (len(kept), kept["interrupted"]) == (4, True)
    assert failures(broken.shares, baseline=gaps) == {}
    assert len(json.loads(gaps.read_text())) == len(cases())


def test_even_limits_and_optima_by_their_definitions() -> None:
    small = cases()[0]
    for layer, row in enumerate(small.phy2log.tolist()):
        steps = [[Fraction(load) for load in step] for step in small.loads[:, layer].tolist()]
        even = oracle.even_makespans(steps, tuple(row), small.num_ranks)
        best = oracle.optimal_makespans(steps, tuple(row), small.num_ranks)
        assert makespans(even_shares(small), small)[:, layer].tolist() == pytest.approx(even)
        assert optima(small, whole=False)[:, layer].tolist() == [float(value) for value in best]
        assert optima(small, whole=True)[:, layer].tolist() == [-(-value // 1) for value in best]
        limits = even_limits(small, whole=True)[:, layer]
        assert (limits >= [-(-value // 1) for value in even]).all()
        dealt = dealt_tokens(small)[:, layer]
        for step, tokens in zip(steps, dealt.tolist(), strict=True):
            for e in range(8):
                mine = [t for t, held in zip(tokens, row, strict=True) if held == e]
                assert sum(mine) == step[e]
                assert mine == sorted(mine, reverse=True)
                assert mine[0] - mine[-1] <= 1


def test_a_ring_of_copies() -> None:
    placed = ring(np.array([[9, 8, 5, 4, 3, 2, 2, 1]]), 4)
    assert placed.tolist() == [[0, 7, 3, 1, 6, 0, 2, 5, 1, 3, 4, 2]]
    for case in cases():
        for row in case.phy2log.tolist():
            assert set(Counter(row)) == set(range(case.num_experts))


@pytest.fixture(scope="module")
def by_load():
    with DispatcherRunner(f"{FILE}:by_load", Limits(timeout=1)) as runner:
        yield runner


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (1, None, ""),
        (2, InvalidPlacementError, "the dispatcher returned a str, not numbers"),
        (3, PolicyTimeoutError, "no answer within 1 s"),
    ],
)
def test_misbehaviour_is_an_error_of_one_line(by_load, kind, error, message, capfd) -> None:
    loads, phy2log = np.array([[[kind, 1]]], dtype=np.float32), np.array([[0, 1, 0, 1]])
    if error is None:
        assert by_load.call(loads, phy2log, 2).values.tolist() == [[[0.5] * 4]]
        assert capfd.readouterr().out == ""
        return
    with pytest.raises(error, match=message) as caught:
        by_load.call(loads, phy2log, 2)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def check_file(function: str, folder: Path) -> list[str]:
    """The lines of checks that failed, and the exit code and JUnit file that go with them."""
    options = ["--dispatcher", f"{FILE}:{function}", "--junit", "j.xml"]
    result = eplb_opt("check", *options, cwd=folder)
    assert result.returncode == 1, result.stderr
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert ElementTree.parse(folder / "j.xml").getroot().get("failures") == str(len(failed))
    return failed


def test_the_command_on_a_file_with_a_fault(tmp_path: Path) -> None:
    failed = check_file("wrong_shape", tmp_path)
    assert len(failed) == len(cases()) + 1
    assert "FAILED contracts: not checked" in failed[-1]


@pytest.mark.slow
def test_the_command_compares_processes(tmp_path: Path) -> None:
    (failed,) = check_file("by_process", tmp_path)
    assert "same in another process: " in failed


ATTACK = ["attack", "even", "--experts", 4, "--redundant", 2, "--gpus", 2, "--seconds", 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--dispatcher", "evn"], "evn"),
        (["check", "--dispatcher", "even", "--never-worse-than", "deepseek"], "deepseek"),
        ([*ATTACK, "--dispatcher", "--certificate", "c.json"], "--certificate proves placements"),
        ([*ATTACK, "--dispatcher", "--nodes", 2], "--nodes, --groups: attack --dispatcher"),
        ([*ATTACK, "--dispatcher", "--spread-replicas"], "--spread-replicas"),
        ([*ATTACK, "--dispatcher", "--policy", "deepsek"], "unknown policy 'deepsek'"),
        (["attack", "deepseek", *ATTACK[2:], "--policy", "refined"], "give --dispatcher, too"),
        (["check", "--dispatcher", "lpbl"], "(did you mean lplb?)"),
        (["check", "--dispatcher", "deepseek"], "(deepseek is a policy)"),
        (["check", "lplb"], "for a dispatcher, add --dispatcher"),
        (["attack", "lplb", *ATTACK[2:]], "for a dispatcher, add --dispatcher"),
        ([*ATTACK, "--dispatcher", "--policy", "lplb-graph:cube"], "lplb-graph:cube"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, tmp_path: Path) -> None:
    result = eplb_opt(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def second_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts: the same steps on every machine."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr("eplb_opt.testing.search.time", clock)


@pytest.mark.usefixtures("second_a_step")
@pytest.mark.parametrize("policy", [None, "deepseek"])
def test_attack_finds_the_known_weakness_of_even_shares(policy) -> None:
    """Two ranks each have a heavy expert, one of which the other could take."""
    machine = Topology(6, 2)
    first, again = (
        (hunt_dispatch("even", 4, machine, seconds=12, seed=2, policy=policy) for _ in range(2))
        if policy is None
        else [hunt_dispatch("even", 4, machine, seconds=12, policy=policy)] * 2
    )
    assert first == again or policy
    worst = first.worst
    assert worst is not None
    assert worst.ratio > Fraction(13, 10)
    assert (len(first.placed_on), min(worst.loads) >= 1) == (4 if policy else 0, True)
    steps = [[Fraction(load) for load in worst.loads]]
    assert oracle.optimal_makespans(steps, worst.phy2log, 2) == [worst.optimum]
    assert worst.load_inside(2) == worst.optimum * len(worst.critical)
    even = oracle.even_makespans(steps, worst.phy2log, 2)[0]
    assert float(worst.makespan) == pytest.approx(float(even))


def test_ratios_are_exact_for_shares_and_whole_tokens() -> None:
    loads, phy2log = [7, 2, 4, 1], [0, 1, 2, 0, 0, 3]
    served = measure_dispatch(broken.dealt, loads, phy2log, 3)
    assert (served.makespan, served.optimum, served.whole) == (6, 5, True)
    served = measure_dispatch(broken.shares, loads, phy2log, 3)
    assert served.makespan == Fraction(7, 3) + 4  # shares of float32(1/3), divided by their sum
    assert served.optimum == Fraction(14, 3)
    assert served.critical == (0, 1, 2)
    assert measure_dispatch("even", [0, 0, 0, 0], phy2log, 3).ratio == 1


@pytest.mark.usefixtures("second_a_step")
def test_the_attack_writes_a_test(tmp_path: Path) -> None:
    result = eplb_opt(*ATTACK[:-1], 8, "--dispatcher", "-o", "test_worst.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert list(lines) == ["loads", "placement", "makespan", "optimum", "ratio"]
    assert "proven: experts with" in lines["optimum"]
    runpy.run_path(str(tmp_path / "test_worst.py"))["test_worst_case_of_the_dispatcher"]()


@pytest.mark.usefixtures("second_a_step")
def test_an_attack_tells_failures_of_the_dispatcher() -> None:
    found = hunt_dispatch(broken.wrong_shape, 4, Topology(6, 2), seconds=8)  # type: ignore[arg-type]
    assert found.worst is None
    assert found.failed == found.batches > 0
    assert found.message.startswith("wrong_shape: a batch of the search: the answer has shape")


@pytest.mark.usefixtures("second_a_step")
def test_calls_for_one_step_count_as_calls() -> None:
    """Of a dispatcher that fails for single steps, no more calls have failed than were made."""

    def batches_only(loads, phy2log, num_ranks):
        if len(phy2log) == 1:
            raise ValueError("one layer")
        return broken.shares(loads, phy2log, num_ranks)

    found = hunt_dispatch(batches_only, 4, Topology(6, 2), seconds=8)  # type: ignore[arg-type]
    assert 0 < found.failed < found.batches


@pytest.mark.usefixtures("second_a_step")
def test_an_attack_on_what_always_fails_is_no_verdict(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SHARE_RULES, "even", broken.wrong_shape)
    result = eplb_opt(*ATTACK[:-1], 8, "--dispatcher", "--policy-timeout", 5, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "nothing measured: every call failed\n")
    assert "batches failed: even: a batch of the search: the answer has shape" in result.stderr


def test_ctrl_c_keeps_the_worst() -> None:
    calls = itertools.count()

    def interrupted(loads, phy2log, num_ranks):
        if next(calls) == 12:
            raise KeyboardInterrupt
        return broken.shares(loads, phy2log, num_ranks)

    found = hunt_dispatch(interrupted, 4, Topology(6, 2), seconds=60)  # type: ignore[arg-type]
    assert found.interrupted
    assert found.worst is not None
