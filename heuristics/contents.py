r"""Which copies beyond the one at home each node holds, under the rule ``home``.

A node n holds the experts that are at home there and F = (P - E) / N further copies, of any
experts. Minimized is how far nodes and replicas are above what fits,

.. math:: \sum_n \Big(\sum_e w_e \frac{c_{en}}{c_e} - m\Big)_+^2
          + \frac1{10} \sum_e \Big(r \frac{w_e}{c_e} - l\Big)_+^2,

with c_en copies of e on node n, c_e on all, m the mean of the nodes, r the ranks of a node, and l
what r replicas that are easy to pack have together. What is above the mean cannot be balanced
inside a node, and heavy replicas are hard to pack beside others. Squares, so that a search that
follows them empties all full nodes, not the fullest alone. To the root of that half of the tokens
off home is added, so that none are moved which balance does not need.

A *move* gives the place of a further copy to another expert, heavy ones more often than light ones.
In a *round* some moves are tried, and the first that raises the root of the objective by no more
than ``-T log u`` is made (annealing, as in :mod:`heuristics.steps.even_annealing`). A round can be
tried at once, which is the torch form, or move by move, which is the compiled form; both make the
same moves, as all sums are of whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from heuristics.arrays import uniform
from heuristics.compiled import HAVE_NUMBA
from heuristics.shape import Shape

UNITS = 2**20
"""In the mean load of the nodes."""
NODE_WEIGHT = 10
"""Of the first sum; that of the second is 1."""
AWAY = 2
"""So many units served off home count as one."""
LARGEST_EXCESS = 2**29
"""Units; more count as so many: the squares are integers of 64 bits."""
TRIALS = 32
"""Moves of a round."""
COOLING = 0.01
"""The last temperature over the first."""


@dataclass
class Contents:
    """Layers, or several trials of one, that are searched together.

    Attributes:
        tokens: [B, E] float64 of each expert, in units.
        by_load: [B, E] int64, the experts, heaviest first.
        home: [B, E] int64, the node where each expert is at home.
        limit: [B] int64, units that may be served off home.
        copies: [B, N, F] int64, the expert of each further copy; changed in place.
        best: [B, N, F] int64, the best until now, ``copies`` at first; changed in place.
        least: [B] int64, its value, the root of the objective in units, without what is behind the
            point; as large as can be at first; changed in place.
        ranks_per_node: r.
        light: units; replicas of which r are up to so many are easy to pack.
    """

    tokens: Tensor
    by_load: Tensor
    home: Tensor
    limit: Tensor
    copies: Tensor
    best: Tensor
    least: Tensor
    ranks_per_node: int
    light: int

    @staticmethod
    def begin(loads: Tensor, homes: Tensor, shape: Shape, traffic: float, light: float) -> Contents:
        """Of loads [L, E] in float64 a trial for each of the homes [L, n, E], B = L n: the heaviest
        experts of each node have its further copies, at home.
        """
        number, further = homes.shape[1], shape.num_slots - loads.shape[1]
        total = loads.sum(1, keepdim=True)
        tokens = torch.where(total > 0, loads * (UNITS * shape.num_nodes / total), 0)
        by_load = torch.sort(tokens, dim=1, descending=True, stable=True).indices
        tokens, by_load = (x.repeat_interleave(number, dim=0) for x in (tokens, by_load))
        home = homes.flatten(0, 1)
        # Shares are rounded up, so that what is served off home is never more than is counted, but
        # for the last digit of a float: a unit is more than that.
        limit = int(traffic * UNITS * shape.num_nodes) - 1
        copies = _heaviest_at_home(by_load, home, shape.num_nodes, further // shape.num_nodes)
        return Contents(
            tokens,
            by_load,
            home,
            torch.full_like(home[:, 0], limit),
            copies,
            copies.clone(),
            torch.full_like(home[:, 0], torch.iinfo(torch.int64).max),
            shape.num_ranks // shape.num_nodes,
            int(light * UNITS),
        )

    def select(self, rows: Tensor) -> Contents:
        """These rows alone, which go on from their best."""
        best = self.best[rows]
        return Contents(
            self.tokens[rows],
            self.by_load[rows],
            self.home[rows],
            self.limit[rows],
            best.clone(),
            best,
            self.least[rows],
            self.ranks_per_node,
            self.light,
        )

    def anneal(self, rounds: int, heat: float, seed: int) -> None:
        """Rounds one after another, beginning at a temperature of ``heat`` times the mean node."""
        draws = Draws.of(rounds, seed, self.tokens)
        run = _run_compiled if HAVE_NUMBA and self.tokens.device.type == "cpu" else _run_together
        run(self, draws, heat * UNITS)


@dataclass(frozen=True)
class Draws:
    """What is random in rounds [R, C]; the same for all rows.

    Attributes:
        slot: in [0, 1), which of the further copies.
        place: in [0, 1), which expert in the order of loads; its square, so that heavy ones come
            more often.
        rise: of the value that is allowed, over the first temperature.
    """

    slot: Tensor
    place: Tensor
    rise: Tensor

    @staticmethod
    def of(rounds: int, seed: int, like: Tensor) -> Draws:
        """Of all rounds."""
        slot, place, rise = uniform((3, rounds, TRIALS), (seed, rounds), like)
        done = torch.arange(rounds, device=like.device, dtype=like.dtype) / rounds
        return Draws(slot, place, -(COOLING ** done[:, None]) * (1 - rise).log())


def _heaviest_at_home(by_load: Tensor, home: Tensor, num_nodes: int, further: int) -> Tensor:
    """[B, N, F] of those that are at home on a node, again from the first where these are fewer."""
    nodes = home.gather(1, by_load)
    experts = by_load.gather(1, torch.sort(nodes, dim=1, stable=True).indices)
    experts = experts.view(len(home), num_nodes, -1)
    return experts[..., torch.arange(further, device=home.device) % experts.shape[2]]


def _run_compiled(contents: Contents, draws: Draws, heat: float) -> None:
    """Move by move."""
    from heuristics.compiled_contents import anneal_rounds  # loads numba

    tensors = (
        contents.tokens, contents.by_load, contents.home, contents.limit,
        contents.copies, contents.best, contents.least,
        draws.slot, draws.place, draws.rise,
    )  # fmt: skip
    constants = (UNITS, NODE_WEIGHT, LARGEST_EXCESS, contents.ranks_per_node, contents.light, AWAY)
    anneal_rounds(constants, heat, *(tensor.numpy() for tensor in tensors))


def _run_together(contents: Contents, draws: Draws, heat: float) -> None:
    """The torch form: all moves of a round and all rows at once."""
    state = _State.of(contents)
    contents.least = torch.minimum(contents.least, state.value)
    for slot, place, rise in zip(draws.slot, draws.place, draws.rise, strict=True):
        moves = _Moves.of(contents, slot, place)
        passes = moves.passes(contents, state, rise * heat)
        moves.make_first(contents, passes)
        state = _State.of(contents)
        better = state.value < contents.least
        contents.best = torch.where(better[:, None, None], contents.copies, contents.best)
        contents.least = torch.where(better, state.value, contents.least)


@dataclass(frozen=True)
class _State:
    """What follows from the contents.

    Attributes:
        counts: [B, E] int64 of copies, that at home included.
        on_nodes: [B, E, N] int64 of them.
        share: [B, E] int64, units of a replica, rounded up.
        nodes: [B, N] int64, units.
        away: [B] int64, units served off home.
        value: [B] int64.
    """

    counts: Tensor
    on_nodes: Tensor
    share: Tensor
    nodes: Tensor
    away: Tensor
    value: Tensor

    @staticmethod
    def of(contents: Contents) -> _State:
        rows, nodes = contents.copies.shape[:2]
        experts = contents.tokens.shape[1]
        node = torch.arange(nodes, device=contents.home.device)
        on_nodes = (contents.home[:, :, None] == node).long().flatten(1)
        cell = contents.copies * nodes + node[:, None]
        on_nodes.scatter_add_(1, cell.view(rows, -1), torch.ones_like(cell).view(rows, -1))
        on_nodes = on_nodes.view(rows, experts, nodes)
        counts = on_nodes.sum(2)
        share = (contents.tokens / counts).ceil().long()
        at_home = on_nodes.gather(2, contents.home[:, :, None])[:, :, 0]
        loads = (on_nodes * share[:, :, None]).sum(1)
        squares = NODE_WEIGHT * _square(loads - UNITS).sum(1)
        squares += _square(share * contents.ranks_per_node - contents.light).sum(1)
        away = ((counts - at_home) * share).sum(1)
        return _State(counts, on_nodes, share, loads, away, _root(squares) + away // AWAY)


def _root(squares: Tensor) -> Tensor:
    """Whole numbers: the last digit of a root is not the same in all libraries."""
    root = squares.double().sqrt().long()
    root -= (root**2 > squares).long()
    return root + ((root + 1) ** 2 <= squares).long()


def _square(excess: Tensor) -> Tensor:
    return excess.clamp(min=0, max=LARGEST_EXCESS) ** 2


@dataclass(frozen=True)
class _Moves:
    """Moves [B, C]: a further copy of expert a on node n becomes one of expert b.

    Attributes:
        slot: [C] which further copy, of all nodes.
        a, b, n: [B, C] int64.
    """

    slot: Tensor
    a: Tensor
    b: Tensor
    n: Tensor

    @staticmethod
    def of(contents: Contents, slot: Tensor, place: Tensor) -> _Moves:
        rows, nodes, further = contents.copies.shape
        slot = (slot * (nodes * further)).long()
        order = (place * place * contents.tokens.shape[1]).long()
        a = contents.copies.view(rows, -1)[:, slot]
        n = (slot // further).expand(rows, -1)
        return _Moves(slot, a, contents.by_load[:, order], n)

    def passes(self, contents: Contents, state: _State, rise: Tensor) -> Tensor:
        """[B, C] whether a move raises the value by at most ``rise`` [C], keeps an expert at home,
        and stays within the limit, or does not add to what is above it.
        """
        here = self.n[..., None] == torch.arange(state.nodes.shape[1], device=self.n.device)
        row = torch.arange(len(self.a), device=self.a.device)[:, None]
        nodes = state.nodes[:, None].expand(-1, self.a.shape[1], -1)
        squares = torch.zeros_like(self.a)
        away, kept = state.away[:, None].expand_as(self.a), torch.ones_like(self.a).bool()
        replicas = _square(state.share * contents.ranks_per_node - contents.light)
        for expert, change in ((self.a, -1), (self.b, 1)):
            count, share = state.counts[row, expert], state.share[row, expert]
            home, on_nodes = contents.home[row, expert], state.on_nodes[row, expert]
            now = on_nodes + change * here
            new = (contents.tokens[row, expert] / (count + change).clamp(min=1)).ceil().long()
            nodes = nodes + now * new[..., None] - on_nodes * share[..., None]
            before, after = (x.gather(2, home[..., None])[..., 0] for x in (on_nodes, now))
            away = away + (count + change - after) * new - (count - before) * share
            kept &= after > 0
            squares = squares + _square(new * contents.ranks_per_node - contents.light)
            squares = squares - replicas[row, expert]
        squares = squares + replicas.sum(1, keepdim=True)
        squares = squares + NODE_WEIGHT * _square(nodes - UNITS).sum(2)
        fits = (away <= contents.limit[:, None]) | (away <= state.away[:, None])
        lower = _root(squares) + away // AWAY <= state.value[:, None] + rise.long()
        return (self.a != self.b) & kept & fits & lower

    def make_first(self, contents: Contents, passes: Tensor) -> None:
        """Make the first of those that pass [B, C]."""
        one = passes & (passes.cumsum(1) == 1)
        change = torch.where(one, self.b - self.a, 0)
        flat = contents.copies.view(len(change), -1)
        flat.scatter_add_(1, self.slot.expand_as(change), change)
