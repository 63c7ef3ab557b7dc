r"""``dispatch-aware``: a placement for steps, each shared anew by an optimal dispatcher.

Minimizes over placements, for the steps t that were seen,

.. math:: \frac1T \sum_t \min_{x_t} \max_g \sum_{p \in g} w_{t, e(p)} x_{tp},

the mean makespan under the best shares :math:`x_t` of each step: by annealing (:mod:`.annealing`)
from the best of several constructions (:mod:`.starts`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.matching import check_old, find_homes, relabel
from heuristics.refined import refined
from heuristics.shape import ArgumentError, Shape, check_weight
from heuristics.steps.annealing import MANY, anneal
from heuristics.steps.home_units import Homes
from heuristics.steps.noise import draw_steps
from heuristics.steps.starts import starts, write_beside
from heuristics.steps.trials import Transfers
from heuristics.steps.values import mean_makespans, use_compiled


@dataclass(frozen=True)
class Work:
    """Of an effort.

    Attributes:
        runs: of annealing, from as many different starts, the best first.
        rounds: of a run.
    """

    runs: int
    rounds: int


EFFORTS = {"fast": Work(1, 5), "default": Work(1, 55), "thorough": Work(3, 200)}
ENOUGH = 256
"""Steps with which a search fits what is common to them."""
UNITS = 2**30
"""In the tokens of a layer, where those off home are counted."""
CHUNK = 2**20
"""Tokens of slots that compiled code takes at once, 8 MB."""


def dispatch_aware(
    weight: Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    effort: str = "default",
    seed: int = 0,
    old: Tensor | None = None,
    move_budget: int | None = None,
    traffic: float | None = None,
    enough: int = ENOUGH,
) -> Tensor:
    """The expert in each slot, [L, P] int64.

    On the steps given, in no layer above ``deepseek``, ``refined``, a chain or, where it is
    defined, a graph of LPLB's (makespans as of :mod:`heuristics.steps.values`). Every layer by
    itself, but for what ``refined`` and noise draw; the same on a CPU whatever the number of
    threads.

    Args:
        weight: [T, L, E] tokens per logical expert at each step; or [L, E], around which steps are
            drawn (:func:`heuristics.steps.draw_steps`).
        num_replicas: P.
        num_groups: K.
        num_nodes: N.
        num_gpus: G.
        effort: ``fast``, ``default`` or ``thorough``.
        seed: of what is drawn.
        old: [L, P] the placement now. What is placed anew is then written so that many experts stay
            where they are.
        move_budget: transfers a layer at most. The result is then in no layer above ``old``, nor
            above any of the others that the budget allows.
        enough: fewer recorded steps are joined by drawn ones up to so many, which vary about their
            sum as these do, so that the placement does not fit these alone; 0 draws none.
        traffic: None: all replicas of a group stay on one node (with one node, anywhere). Else the
            rule ``home``: every expert has a replica at the home of its group, further ones may be
            on any node, and a dispatcher uses these for at most this part of the tokens of every
            step. The search does not see such a dispatcher: it values placements as if there were
            no limit, and keeps to those that serve at most this part of all tokens off home where
            replicas share alike.

    Raises:
        ArgumentError: an argument does not fit; the message names it.
    """
    weight = weight.detach()
    check_weight(weight)
    if effort not in EFFORTS:
        raise ArgumentError(f"effort={effort!r} is not one of {', '.join(EFFORTS)}")
    if move_budget is not None and (old is None or move_budget < 0):
        raise ArgumentError(f"move_budget={move_budget} must not be negative, and needs old")
    total = weight.sum(0, dtype=torch.float64) if weight.ndim == 3 else weight
    shape = Shape.resolve(total, num_replicas, num_groups, num_nodes, num_gpus)
    limit = traffic if shape.num_nodes > 1 else None
    if old is not None:
        nodes, groups = shape.num_nodes, shape.num_groups
        old = check_old(old, num_replicas, nodes, groups, total, home=limit is not None)
    steps = weight if weight.ndim == 3 else draw_steps(weight, seed=seed)
    drawn = draw_besides(steps, enough - len(steps), seed)
    sizes = num_replicas, num_groups, num_nodes, num_gpus
    placed = torch.stack([*starts(total, *sizes).values()])
    if limit is not None:
        at_home = refined(total, *sizes, seed=seed, traffic=limit)
        placed = torch.cat([placed, at_home[None]])
    chunk = len(total)
    if use_compiled(steps):
        chunk = max(1, CHUNK // (min(max(len(steps), enough), MANY) * num_replicas))
    work, found = EFFORTS[effort], []
    for i in range(0, len(total), chunk):
        part = slice(i, i + chunk)
        seen = steps[:, part], drawn[:, part]
        now = None if old is None else old[part]
        task = _Task(*seen, now, shape, move_budget, limit)
        found.append(_search(task, placed[:, part], work, seed))
    return torch.cat(found)


def draw_besides(steps: Tensor, number: int, seed: int) -> Tensor:
    """So many steps [number, L, E] that vary about the sum of ``steps`` [T, L, E] as these do, of
    as many tokens in the mean; none if the number is not positive.
    """
    if number <= 0:
        return steps[:0]
    drawn = draw_steps(steps, steps=number, seed=seed).double()
    given, found = (x.sum((0, 2), dtype=torch.float64) / len(x) for x in (steps, drawn))
    return drawn * torch.where(found > 0, given / found, 0)[:, None]


@dataclass(frozen=True)
class _Task:
    """What placements are for.

    Attributes:
        steps: [T, L, E].
        drawn: [R, L, E] more of them, drawn.
        old: [L, P] the placement now, if there is one.
        shape: sizes.
        budget: transfers a layer from ``old``, None for any number.
        limit: under the rule ``home`` the part of a layer's tokens that may be served off home,
            else None.
    """

    steps: Tensor
    drawn: Tensor
    old: Tensor | None
    shape: Shape
    budget: int | None
    limit: float | None

    def homes(self, start: Tensor) -> Homes:
        """The rule ``home`` for changes of placements [L, P], if it is that."""
        nodes, total = self.shape.num_nodes, self.steps.sum(0, dtype=torch.float64)
        if self.limit is None:
            return Homes.of(total[..., None], None, 1.0, nodes)
        homes = find_homes(start, total, nodes, self.shape.num_groups)
        tokens = total.sum(1, keepdim=True)
        units = torch.where(tokens > 0, total * (UNITS / tokens), 0)
        return Homes.of(units[..., None], homes, self.limit, nodes)

    def transfers(self, start: Tensor) -> Transfers:
        """What changes of placements [L, P] may take."""
        return Transfers.of(start, self.old, self.budget, self.shape.num_ranks, self.steps.shape[2])


def _search(task: _Task, placed: Tensor, work: Work, seed: int) -> Tensor:
    """The best of the starts ``placed`` [C, L, P], annealed."""
    shape, old, steps, drawn = task.shape, task.old, task.steps, task.drawn
    num_ranks, num_experts = shape.num_ranks, steps.shape[-1]
    if old is not None:
        placed = write_beside(placed, old, shape, num_experts, task.budget)
    everything = torch.cat([steps, drawn]) if len(drawn) else steps
    values = mean_makespans(steps, placed, num_ranks)
    order = values.argsort(dim=0, stable=True)
    row = torch.arange(values.shape[1], device=values.device)
    best, limit = placed[order[0], row], values.amin(0)
    least = mean_makespans(everything, best[None], num_ranks)[0]
    for run in range(work.runs):
        start = placed[order[min(run, len(order) - 1)], row]
        transfers, homes = task.transfers(start), task.homes(start)
        found = anneal(everything, start, transfers, homes, rounds=work.rounds, seed=seed + run)
        value = mean_makespans(everything, found[None], num_ranks)[0]
        better = (value < least) & (mean_makespans(steps, found[None], num_ranks)[0] <= limit)
        best = torch.where(better[:, None], found, best)
        least = torch.where(better, value, least)
    if old is not None and task.budget is None:
        best = relabel(best, old, num_ranks, shape.num_nodes, num_experts)
    return best
