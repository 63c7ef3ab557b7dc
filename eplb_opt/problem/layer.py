"""One layer of an instance in exact arithmetic: the problem that a solver takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from eplb_opt.problem.rationals import Integers, integer_array
from eplb_opt.problem.topology import Rule, Topology


@dataclass(frozen=True)
class Layer:
    """One layer of an instance in exact arithmetic: the problem that a solver takes.

    Attributes:
        loads: E integers; expert ``e`` receives ``loads[e] * unit`` tokens in all steps together.
        unit: 1 for integer loads; a power of 1/2 for floats, which are rationals with such
            denominators. The same for all steps.
        topology: the machine.
        rule: the resolved rule.
        index: its number in reports.
        spread_replicas: no rank may hold two replicas of one expert.
        steps: [T, E] integers in the same unit, whose sums over the steps are ``loads``: int64, or
            Python's integers (dtype object) where such sums might exceed 64 bits. Without steps,
            the loads as the only one. Layers of equal ``loads`` compare equal whatever their steps.
        traffic_limit: under the rule ``home`` the part of the tokens that may be served off home:
            under ``even`` and ``fixed`` dispatch of all steps together, under ``optimal`` dispatch
            of each. 1 is no limit.
    """

    loads: tuple[int, ...]
    unit: Fraction
    topology: Topology
    rule: Rule = Rule.GLOBAL
    index: int = 0
    spread_replicas: bool = False
    steps: Integers = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    traffic_limit: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if self.steps is None:
            object.__setattr__(self, "steps", integer_array([self.loads]))

    @property
    def most_replicas(self) -> int:
        """No expert can have more: P - E + 1, or with ``spread_replicas`` one on each rank."""
        most = self.num_redundant_experts + 1
        ranks = self.topology.num_ranks
        if self.rule == Rule.HIERARCHICAL:
            ranks = self.topology.ranks_per_node
        return min(most, ranks) if self.spread_replicas else most

    @property
    def num_logical_experts(self) -> int:
        """E."""
        return len(self.loads)

    @property
    def num_redundant_experts(self) -> int:
        """P - E, the replicas beyond the first of each expert."""
        return self.topology.num_physical_experts - len(self.loads)

    @property
    def is_feasible(self) -> bool:
        """Whether the slots can be filled: ``spread_replicas`` needs S different experts a rank."""
        return self.most_replicas * len(self.loads) >= self.topology.num_physical_experts

    @property
    def has_load(self) -> bool:
        """False for a dense layer of a recording, whose experts receive nothing."""
        return any(self.loads)

    @property
    def groups(self) -> list[range]:
        """The logical experts of each group."""
        group_size = len(self.loads) // self.topology.num_groups
        return [
            range(k * group_size, (k + 1) * group_size) for k in range(self.topology.num_groups)
        ]

    def node_problem(self, groups: Sequence[int]) -> Layer:
        """The global problem inside one node that takes ``groups``; experts in the order of
        ``groups``.
        """
        experts = self.experts_of(groups)
        return Layer(
            tuple(self.loads[e] for e in experts),
            self.unit,
            self.topology.node,
            Rule.GLOBAL,
            self.index,
            self.spread_replicas,
            self.steps[:, experts],
        )

    def experts_of(self, groups: Sequence[int]) -> list[int]:
        """The logical experts of ``groups``, in their order."""
        group_size = len(self.loads) // self.topology.num_groups
        return [e for k in groups for e in range(k * group_size, (k + 1) * group_size)]

    def without_nodes(self) -> Layer:
        """The layer under the global rule, as one node with one group."""
        machine = Topology(self.topology.num_physical_experts, self.topology.num_ranks)
        return replace(self, topology=machine, rule=Rule.GLOBAL, traffic_limit=Fraction(1))

    def each_step(self) -> list[Layer]:
        """The problem of each step alone, in order, under the layer's limit of traffic.

        Under ``even`` and ``fixed`` dispatch that limit is one of all steps together, and a step
        alone may exceed it: see :meth:`without_limit`.
        """
        return [replace(self, loads=tuple(map(int, step)), steps=step[None]) for step in self.steps]

    def without_limit(self) -> Layer:
        """The layer with any traffic."""
        return replace(self, traffic_limit=Fraction(1))
