r"""What nodes keep at least under the rule ``home``, because copies off home are few.

Every node holds the E/N experts that are at home there, so that (P - E)/N of its slots are left for
further copies. An expert with k copies outside of a set of nodes that its home is in, and so at
least one inside, has at most ``w_e k / (k + 1)`` of its tokens served outside under ``even``
dispatch: the k-th copy adds ``w_e / (k (k + 1))``, less and less. Where shares are free the first
may take all. So of the tokens T(Q) at home in a set Q of nodes no more leave it than D(Q), the sum
of the ``(N - |Q|) (P - E) / N`` largest of these terms, and

.. math:: C \ge (T(Q) - D(Q)) / |Q|

where C is the fullest node. One node by itself comes down to C with the fewest copies whose terms
reach that, and all nodes together have P - E.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, islice

from eplb_opt.bounds.partitions import Block
from eplb_opt.problem.layer import Layer
from eplb_opt.problem.objective import Dispatch

MOST_NODES = 8
"""Up to so many nodes all sets of them are looked at, else the m fullest for every m."""
MOST_COPIES = 32
"""Terms of an expert beyond these are taken as large as this one: their denominators stay short."""


class Copies:
    """Of one layer; all tokens are integers, in parts of ``1 / scale`` of the load unit."""

    def __init__(self, layer: Layer, dispatch: Dispatch) -> None:
        self.layer, self.nodes = layer, layer.topology.num_nodes
        self.shared_alike = dispatch == Dispatch.EVEN
        self.all = layer.num_redundant_experts
        self.of_node = self.all // self.nodes
        self.scale = math.lcm(*range(1, MOST_COPIES + 2)) if self.shared_alike else 1
        self.terms: dict[Block, list[int]] = {}
        self.sets: dict[Block, tuple[int, int]] = {}

    def least(self, partition: list[Block], floor: Fraction) -> Fraction:
        """Load units that the fullest node of a partition keeps at best; at most ``floor`` of
        which are of no interest.
        """
        found = max(Fraction(*self._kept(groups)) for groups in self._sets(partition))
        return max(found / self.scale, self._one_by_one(partition, floor))

    def _sets(self, partition: list[Block]) -> Iterator[tuple[int, Block]]:
        """The number of nodes, and the groups of each set that is looked at."""
        few = self.nodes <= MOST_NODES
        fullest = sorted(partition, key=self._tokens, reverse=True)
        for m in range(1, self.nodes):
            for chosen in combinations(partition, m) if few else [fullest[:m]]:
                yield m, tuple(sorted(group for block in chosen for group in block))

    def _kept(self, nodes_and_groups: tuple[int, Block]) -> tuple[int, int]:
        """Numerator and denominator of what a set of nodes keeps, a node."""
        m, groups = nodes_and_groups
        if groups not in self.sets:
            terms = sorted((x for k in groups for x in self._terms((k,))), reverse=True)
            leave = sum(terms[: (self.nodes - m) * self.of_node])
            self.sets[groups] = self._tokens(groups) * self.scale - leave, m
        return self.sets[groups]

    def _tokens(self, groups: Block) -> int:
        return sum(self.layer.loads[e] for e in self.layer.experts_of(groups))

    def _one_by_one(self, partition: list[Block], floor: Fraction) -> Fraction:
        """A node is above C with its first k copies for as many k as it needs copies to come down
        to C; the nodes have ``all`` together.
        """
        above: list[int] = []
        lowest = floor * self.scale
        for block in partition:
            kept = self._tokens(block) * self.scale
            for term in self._terms(block):
                if kept <= lowest:
                    break
                above.append(kept)
                kept -= term
        most = sorted(above, reverse=True)[self.all : self.all + 1]
        return Fraction(sum(most), self.scale)

    def _terms(self, groups: Block) -> list[int]:
        """What each further copy off home of their experts takes away at most, the largest first,
        as many as may be needed.
        """
        if groups not in self.terms:
            loads = [self.layer.loads[e] for e in self.layer.experts_of(groups)]
            heap = [(-self._term(w, 1), 1, w) for w in loads]
            heapq.heapify(heap)
            most = (self.nodes - 1) * self.of_node
            self.terms[groups] = list(islice(self._pop(heap), most))
        return self.terms[groups]

    def _pop(self, heap: list[tuple[int, int, int]]) -> Iterator[int]:
        while True:
            term, k, load = heap[0]
            yield -term
            heapq.heapreplace(heap, (-self._term(load, k + 1), k + 1, load))

    def _term(self, load: int, k: int) -> int:
        """Of the k-th copy of an expert."""
        if not self.shared_alike:
            return load if k == 1 else 0
        k = min(k, MOST_COPIES)
        return load * (self.scale // (k * (k + 1)))
