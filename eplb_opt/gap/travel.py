r"""What traffic costs in bytes and seconds, so that it can be added to what balance saves.

The model. A token of a layer goes to k experts. It travels once to each node that serves it there,
whatever the number of its experts on the node (it is forwarded inside), and one sum of results
travels back: a **visit** of a token at a node costs

.. math:: H (b_{out} + b_{back}) \text{ bytes}

for H numbers of so many bytes each. All visits of a node pass its link, out and back one after the
other, and ranks wait for the fullest link as for the fullest rank. A layer of B tokens then takes

.. math:: M s + B \max_n v_n \; H (b_{out} + b_{back}) / \mathrm{link}

seconds, with the makespan M, s seconds for a token at one expert, and v_n visits a token at node n.
Off-home copies change the second term by *further* visits. From loads alone these are estimated:

- :func:`most_visits`: every token served off home is one further visit, but no token visits a node
  twice: ``v_n <= min(k x_n, 1)`` where x_n is the part of the loads that node n serves off home;
- :func:`drawn_visits`: all visits if the k experts of a token were drawn independently by load:
  ``v_n = 1 - (1 - q_n)^k`` where node n serves the part q_n. A token that is there anyway is not
  counted again, and a copy off home may save the visit at home.

From the experts of each token :func:`node_visits` counts them.

Left out: communication that is hidden behind computation, latency, links inside a node, full queues
of a network, and that a visit at a token's own node crosses no link (one in N where tokens start
evenly on all nodes). All but latency and queues make traffic cheaper than it is here.

Sources: DeepSeek-AI, "DeepSeek-V3 Technical Report", arXiv 2412.19437, sections 2.1.2 (a token is
routed to at most 4 nodes) and 3.2.2 (a token crosses between nodes once for each node, to the GPU
of the same place there, and is forwarded by NVLink; results are added up on their way back); the
same company's DeepEP, which sends FP8 out and BF16 back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.homes import find_homes
from eplb_opt.problem.layer import Layer

Number = float | Fraction


@dataclass(frozen=True)
class Travel:
    """The model and the machine, as far as tokens travel.

    Attributes:
        experts_per_token: k.
        hidden_size: H, numbers of a token's vector.
        link: GB a second that enter a node, and as many that leave it: of all its network cards
            together.
        seconds_per_token: s, expert work of a token at one of its experts on a rank; see
            :func:`seconds_per_token`.
        bytes_out: of a number on its way to experts: 1 for FP8 (1.03125 with a scale of 4 bytes for
            128 numbers).
        bytes_back: of a number on its way back: 2 for BF16.

    Raises:
        ValueError: a size is not positive and finite, or bytes are negative.

    Example:
        DeepSeek-V3 on nodes with eight cards of 50 GB/s: a visit is 21.5 kB.

        >>> travel = Travel(8, hidden_size=7168, link=400, seconds_per_token=2e-7)
        >>> travel.bytes_per_visit
        21504.0
        >>> f"{bytes_between_nodes(travel, 4096, most_visits(8, [0.02] * 4)):.3g}"
        '5.64e+07'
    """

    experts_per_token: int
    hidden_size: int
    link: float
    seconds_per_token: float
    bytes_out: float = 1.0
    bytes_back: float = 2.0

    def __post_init__(self) -> None:
        for name in ("experts_per_token", "hidden_size", "link", "seconds_per_token"):
            size = getattr(self, name)
            if not (math.isfinite(size) and size > 0):
                raise ValueError(f"{name}={size} must be positive and finite")
        for name in ("bytes_out", "bytes_back"):
            size = getattr(self, name)
            if not (math.isfinite(size) and size >= 0):
                raise ValueError(f"{name}={size} must be finite and not negative")

    @property
    def bytes_per_visit(self) -> float:
        """There and back."""
        return self.hidden_size * (self.bytes_out + self.bytes_back)


def bytes_between_nodes(travel: Travel, tokens: float, visits: Sequence[Number]) -> float:
    """Bytes of a layer and step between all nodes.

    Args:
        travel: the model.
        tokens: B, of the step on all ranks; each has ``experts_per_token`` experts.
        visits: [N] of a token at each node.
    """
    return tokens * float(sum(visits)) * travel.bytes_per_visit


def seconds(travel: Travel, tokens: float, makespan: Number, visits: Sequence[Number]) -> float:
    """Seconds of a layer and step: expert work of the fullest rank, then the fullest link.

    Args:
        travel: the model.
        tokens: B, of the step on all ranks; each has ``experts_per_token`` experts.
        makespan: of such a step: (1 + loss) B k / G.
        visits: [N] of a token at each node.
    """
    crossing = tokens * float(max(visits)) * travel.bytes_per_visit / (travel.link * 1e9)
    return float(makespan) * travel.seconds_per_token + crossing


def seconds_per_token(
    step_seconds: float, expert_share: float, makespans: Sequence[Number]
) -> float:
    """S from a step that was timed.

    Args:
        step_seconds: of the step.
        expert_share: part of it that is expert work, from 0 to 1.
        makespans: of its layers, in tokens of this step.
    """
    return step_seconds * expert_share / float(sum(makespans))


def most_visits(experts_per_token: int, traffic: Sequence[Number]) -> tuple[float, ...]:
    """Further visits of a token at each node, [N], an upper estimate from traffic by node.

    Example:
        >>> most_visits(8, [0.025, 0.025, 0.25, 0])
        (0.2, 0.2, 1.0, 0.0)
    """
    return tuple(min(float(experts_per_token * part), 1.0) for part in traffic)


def drawn_visits(experts_per_token: int, served: Sequence[Number]) -> tuple[float, ...]:
    """All visits of a token at each node, [N], if its experts were drawn independently by load.

    Args:
        experts_per_token: k.
        served: [N] the part of the loads that each node serves.

    Example:
        >>> drawn_visits(2, [0.5, 0.5])
        (0.75, 0.75)
    """
    return tuple(1.0 - (1.0 - float(part)) ** experts_per_token for part in served)


def node_visits(
    slots: NDArray[np.integer], slots_per_node: int, num_nodes: int
) -> NDArray[np.int64]:
    """Tokens that visit each node, [N].

    Args:
        slots: [tokens, k] the slot that serves each token for each of its experts.
        slots_per_node: P / N.
        num_nodes: N.

    Example:
        >>> node_visits(np.array([[0, 1], [1, 2]]), 2, 2).tolist()
        [2, 1]
    """
    nodes = slots // slots_per_node
    return np.array([(nodes == n).any(axis=1).sum() for n in range(num_nodes)], np.int64)


@dataclass(frozen=True)
class Served:
    """What each node serves, in parts of a layer's tokens; exact.

    Attributes:
        home: [N] of the groups that are at home there.
        away: [N] of other groups; they sum to the traffic.
        owned: [N] the loads of the groups that are at home there, wherever they are served.
    """

    home: tuple[Fraction, ...]
    away: tuple[Fraction, ...]
    owned: tuple[Fraction, ...]

    @property
    def all(self) -> tuple[Fraction, ...]:
        """[N] of all groups; they sum to 1."""
        return tuple(a + b for a, b in zip(self.home, self.away, strict=True))


def served_by_nodes(
    layer: Layer,
    phy2log: Sequence[int],
    shares: Sequence[Fraction] | None = None,
    *,
    present: bool = True,
) -> Served | None:
    """What each node serves; all 0 without load, None for a placement without homes.

    Arguments as of :func:`eplb_opt.problem.homes.traffic`, which is ``sum(served.away)``.
    """
    homes = find_homes(layer, phy2log, present=present)
    if homes is None:
        return None
    nodes, per_node = layer.topology.num_nodes, layer.topology.slots_per_node
    group_size = len(layer.loads) // layer.topology.num_groups
    copies = np.bincount(phy2log, minlength=len(layer.loads)).tolist()
    home, away, owned = ([Fraction(0)] * nodes for _ in range(3))
    for p, e in enumerate(phy2log):
        tokens = layer.loads[e] * (Fraction(1, copies[e]) if shares is None else shares[p])
        at_home = homes[e // group_size] == p // per_node
        (home if at_home else away)[p // per_node] += tokens
        owned[homes[e // group_size]] += tokens
    total = sum(layer.loads) or 1
    return Served(*(tuple(part / total for part in parts) for parts in (home, away, owned)))
