"""Moves tried by compiled code and by tensors: the same moves are kept, with the same makespans."""

import subprocess
import sys

import pytest
import torch

from heuristics.compiled import HAVE_NUMBA
from heuristics.matching import find_homes
from heuristics.policies import rebalance_experts
from heuristics.steps import trials, values
from heuristics.steps.home_units import Homes
from heuristics.steps.noise import draw_steps
from heuristics.steps.proposals import propose
from heuristics.steps.racing import race
from heuristics.steps.trials import Transfers, try_moves
from heuristics.steps.values import dispatched
from tests.heuristics.loads import lognormal

LAYERS, EXPERTS, SLOTS, RANKS = 3, 12, 16, 4
NUMBA = pytest.mark.skipif(not HAVE_NUMBA, reason="numba is not installed")


def start(seed: int, nodes: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps [L, T, E] in mean rank loads, and a placement [L, P]; a group on each node."""
    weight = lognormal(LAYERS, EXPERTS, sigma=1.5, seed=seed)
    steps = draw_steps(weight, steps=40, tokens=4000, spread=0.6, seed=seed).double()
    phy2log = rebalance_experts(steps.sum(0), SLOTS, nodes, nodes, RANKS, policy="deepseek")[0]
    return steps.transpose(0, 1) / 1000, phy2log


def rule(loads: torch.Tensor, phy2log: torch.Tensor, limit: float | None) -> Homes:
    """``home`` with that limit; None: experts may go anywhere."""
    tokens = loads.transpose(1, 2) * 2**10
    if limit is None:
        return Homes.of(tokens, None, 1.0, 1)
    return Homes.of(tokens, find_homes(phy2log, tokens.sum(2), 2, 2), limit, 2)


def some_moves(seed: int, limit: float | None) -> torch.Tensor:
    loads, phy2log = start(seed, nodes_of(limit))
    batch = dispatched(loads, phy2log, RANKS)
    homes = rule(loads, phy2log, limit)
    return propose(batch, phy2log, homes, 24, torch.Generator().manual_seed(seed))


def nodes_of(limit: float | None) -> int:
    return 1 if limit is None else 2


def outcome(
    seed: int, budget: int | None, limit: float | None, moves: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    loads, phy2log = start(seed, nodes_of(limit))
    homes = rule(loads, phy2log, limit)
    old = rebalance_experts(loads[:, 0], SLOTS, 1, 1, RANKS, policy="refined")[0]
    transfers = Transfers.of(phy2log, phy2log if budget else old, budget, RANKS, EXPERTS)
    batch = dispatched(loads, phy2log, RANKS)
    thresholds = torch.full(moves.shape[:2], 1e-3)
    kept = try_moves(batch, phy2log, moves, thresholds, transfers, homes)
    assert bool((homes.away(phy2log) <= homes.most).all())
    return kept, phy2log, transfers.left, batch.makespans


def use_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (trials, values):
        monkeypatch.setattr(module, "use_compiled", lambda _: False)


@NUMBA
@pytest.mark.parametrize(("budget", "limit"), [(None, None), (3, None), (None, 0.02), (3, 1.0)])
def test_both_forms_keep_the_same_moves(budget, limit, monkeypatch):
    moves = [some_moves(seed, limit) for seed in range(4)]
    compiled = [outcome(seed, budget, limit, moves[seed]) for seed in range(4)]
    use_tensors(monkeypatch)
    for seed, (kept, phy2log, left, makespans) in enumerate(compiled):
        found = outcome(seed, budget, limit, moves[seed])
        assert torch.equal(kept, found[0])
        assert torch.equal(phy2log, found[1])
        assert torch.equal(left, found[2])
        torch.testing.assert_close(makespans, found[3], rtol=1e-3, atol=0)
    assert sum(int(kept.sum()) for kept, *_ in compiled) > 10


@NUMBA
def test_both_forms_dispatch_alike_with_room_to_spare(monkeypatch):
    loads, phy2log = start(9)
    room = 0.3 * torch.eye(RANKS, dtype=torch.float64).repeat(10, 1)
    pushed = dispatched(loads, phy2log, RANKS, room)
    use_tensors(monkeypatch)
    found = dispatched(loads, phy2log, RANKS, room)
    torch.testing.assert_close(pushed.makespans, found.makespans, rtol=1e-3, atol=0)
    torch.testing.assert_close(pushed.ranks.sum(2), found.ranks.sum(2))
    same = (pushed.critical == found.critical).all(2).double().mean()
    assert same > 0.9


def test_kept_moves_are_dispatched_as_if_anew():
    loads, phy2log = start(4)
    batch = dispatched(loads, phy2log, RANKS)
    before = batch.makespans.mean(1)
    homes = rule(loads, phy2log, None)
    moves = propose(batch, phy2log, homes, 64, torch.Generator().manual_seed(0))
    transfers = Transfers.of(phy2log, None, None, RANKS, EXPERTS)
    kept = try_moves(batch, phy2log, moves, torch.zeros(moves.shape[:2]), transfers, homes)
    assert kept.any()
    anew = dispatched(loads, phy2log, RANKS)
    torch.testing.assert_close(batch.makespans, anew.makespans, rtol=0, atol=2e-5)
    assert (batch.makespans.mean(1)[kept.any(1)] < before[kept.any(1)]).all()


def test_a_race_is_given_up_where_the_first_steps_speak_against_it():
    late = torch.cat([torch.full((16,), 1.0), torch.full((84,), -1.0)])[None]
    assert not race(late, torch.zeros(1))
    assert race(late.flip(1), torch.zeros(1))
    assert race(late[:, :15] * -1, torch.zeros(1))


def test_importing_the_policies_does_not_load_numba():
    code = "import sys, heuristics.policies; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
