"""Placements annealed on steps in turns (Kirkpatrick, Gelatt and Vecchi, Science 220 (1983) 671).

In every round other steps are dispatched, moves that their prices recommend are tried on them, and
kept if they raise the mean makespan by no more than chance allows: by less than ``-T log u``, u
uniform (Metropolis), where the temperature T falls. No placement fits the steps of one round only,
as the next round has others; and rounds see the more steps the colder it is, because then
differences count that few steps do not show.

Under the rule ``home`` moves may take replicas to any node; they must leave every expert one at
the home of its group, and the tokens that would be served off home, if replicas shared alike,
within the limit, or not more than there are.

At each step one rank, by chance, has some room to spare. Else a step whose ranks are all level
would count for nothing, however near it is to being held up, and other steps like it will be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from heuristics.steps.home_units import Homes
from heuristics.steps.proposals import propose
from heuristics.steps.trials import Transfers, try_moves
from heuristics.steps.values import dispatched

HOT, COLD = 0.01, 1e-4
"""Temperature at first and at last, as parts of what the steps of a round lose."""
FEW, MANY = 64, 1024
"""Steps of the first and of the last round."""
ROOM = 0.16
"""In mean rank loads of the step."""
STEPS_PER_MOVE = 4
"""Steps of a round over moves that are tried in it."""
LEAST_MOVES = 16
"""Of a round."""


def anneal(
    steps: Tensor,
    phy2log: Tensor,
    transfers: Transfers,
    homes: Homes,
    *,
    rounds: int,
    seed: int,
) -> Tensor:
    """Placements [L, P] found from those given.

    Args:
        steps: [T, L, E] tokens of each expert.
        phy2log: [L, P] where to start; every layer by itself, whatever others are in the batch.
        transfers: what ranks hold, and may receive; changed in place.
        homes: the rule ``home``, of which the start has the homes; without it experts stay on their
            nodes.
        rounds: one after another.
        seed: of all that is random.
    """
    phy2log, num_ranks = phy2log.clone(), transfers.held.shape[1]
    mean = steps.sum((0, 2), dtype=torch.float64) / (len(steps) * num_ranks)
    scale = torch.where(mean > 0, 1 / mean, 0)[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for i in range(rounds):
        done = i / rounds
        size = min(round(FEW * (MANY / FEW) ** done), len(steps))
        if len(order) < size:
            order = torch.randperm(len(steps), generator=generator)
        turn, order = order[:size].to(steps.device), order[size:]
        spare = torch.randint(num_ranks, (size,), generator=generator)
        room = ROOM * torch.nn.functional.one_hot(spare, num_ranks).to(scale)
        batch = dispatched(steps[turn].transpose(0, 1) * scale, phy2log, num_ranks, room)
        number = max(size // STEPS_PER_MOVE, LEAST_MOVES)
        moves = propose(batch, phy2log, homes, number, generator)
        lost = (batch.makespans - batch.ranks.mean(2)).mean(1, keepdim=True)
        chance = torch.rand(moves.shape[1], generator=generator, dtype=torch.float64).to(scale)
        thresholds = -HOT * (COLD / HOT) ** done * lost * chance.log()
        try_moves(batch, phy2log, moves, thresholds, transfers, homes)
    return phy2log
