"""Recorded or generated loads, the machine that serves them, and the rule for placements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from eplb_opt.problem.layer import Layer
from eplb_opt.problem.loads import Loads, check_loads, normalize_steps, sum_over_time
from eplb_opt.problem.rationals import exact_integers
from eplb_opt.problem.shown import Shown, ShowsItself
from eplb_opt.problem.topology import Rule, Topology


@dataclass(frozen=True, eq=False, repr=False)
class Instance(ShowsItself):
    """Recorded or generated loads, the machine that serves them, and the rule for placements.

    Attributes:
        loads: tokens per logical expert, [L, E] int64 or float64 (after construction; a trace [T,
            L, E] is given in the same argument and summed over time, in floats if it holds floats;
            :meth:`layer` sums exactly).
        topology: the machine.
        rule: ``auto``, ``global``, ``hierarchical`` or ``home``. ``auto`` is what the reference
            programs do: hierarchical if there are several nodes and K is a multiple of N, else
            global. After construction it is the resolved :class:`Rule`.
        source: where the loads came from, for messages and reports.
        spread_replicas: no rank may hold two replicas of one expert.
        normalize_steps: the steps of a trace weigh alike: those of a layer are scaled to the
            largest of their totals, see :func:`eplb_opt.problem.loads.normalize_steps`.
        trace: the [T, L, E] input if there was a time axis, normalised if asked for, else None.
        traffic_limit: under the rule ``home`` the part of a layer's tokens that may be served off
            home, from 0 to 1; a float is read as the decimal that is printed for it. After
            construction a Fraction.
        numbers: what each row is called in reports: 0..L-1, or the layers kept by :meth:`select`.

    Raises:
        ValueError: loads are not numbers, cannot be held exactly, are negative, NaN or infinite, of
            a wrong shape, or do not fit the topology and rule; or there are no steps to normalise.
            The message names the value and, for a bad load, its place.

    Example:
        >>> instance = Instance([[3, 1, 2]], Topology(num_physical_experts=4, num_ranks=2))
        >>> instance.num_logical_experts, str(instance.rule), instance.layer(0).loads
        (3, 'global', (3, 1, 2))
    """

    loads: Loads
    topology: Topology
    rule: Rule | Literal["auto", "global", "hierarchical", "home"] = "auto"
    source: str = "array"
    spread_replicas: bool = False
    normalize_steps: bool = False
    traffic_limit: Fraction | float | str = Fraction(1)
    trace: Loads | None = field(default=None, init=False)
    numbers: tuple[int, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        loads = check_loads(self.loads)
        if self.normalize_steps and loads.ndim != 3:
            raise ValueError("normalize_steps=True needs a trace [steps, layers, experts]")
        if loads.ndim == 3:
            loads = normalize_steps(loads) if self.normalize_steps else loads
            object.__setattr__(self, "trace", loads)
            loads = sum_over_time(loads)
        object.__setattr__(self, "loads", loads)
        object.__setattr__(self, "numbers", tuple(range(len(loads))))
        object.__setattr__(self, "rule", _resolve_rule(self.rule, self.topology, loads.shape[1]))
        object.__setattr__(self, "traffic_limit", _limit(self.traffic_limit, Rule(self.rule)))
        if loads.shape[1] > self.topology.num_physical_experts:
            raise ValueError(
                f"num_physical_experts={self.topology.num_physical_experts} is less than "
                f"num_logical_experts={loads.shape[1]}: every expert needs a slot"
            )
        nodes = self.topology.num_nodes if self.rule == Rule.HIERARCHICAL else 1
        if self.spread_replicas and loads.shape[1] < nodes * self.topology.slots_per_rank:
            raise ValueError(
                f"spread_replicas needs slots_per_rank={self.topology.slots_per_rank} different "
                f"experts to fill a rank, but there are {loads.shape[1] // nodes} for it"
            )

    def _shown(self) -> Shown:
        """Its sizes; the loads are not."""
        machine = self.topology
        sizes = {
            "steps": len(self.trace) if self.trace is not None else 0,
            "layers": self.num_layers,
            "experts": self.num_logical_experts,
            "slots": machine.num_physical_experts,
            "ranks": machine.num_ranks,
            "nodes": machine.num_nodes if machine.num_nodes > 1 else 0,
            "groups": machine.num_groups if machine.num_groups > 1 else 0,
        }
        words = [f"{number} {name}" for name, number in sizes.items() if number]
        words.append(f"{self.rule} rule")
        if (limit := Fraction(self.traffic_limit)) < 1:
            words.append(f"traffic up to {float(limit):g}")
        words += ["replicas spread"] * self.spread_replicas
        return Shown(f"Instance({self.source}: {', '.join(words)})")

    @property
    def num_layers(self) -> int:
        """L."""
        return int(self.loads.shape[0])

    @property
    def num_logical_experts(self) -> int:
        """E."""
        return int(self.loads.shape[1])

    def layer(self, index: int) -> Layer:
        """Row ``index`` in exact arithmetic.

        Raises:
            IndexError: there is no such layer.
        """
        if not 0 <= index < self.num_layers:
            raise IndexError(f"layer {index} is out of range: the instance has {self.num_layers}")
        loads = self.loads[None] if self.trace is None else self.trace
        steps, unit = exact_integers(loads[:, index])
        return Layer(
            tuple(int(total) for total in steps.sum(axis=0)),
            unit,
            self.topology,
            Rule(self.rule),
            self.numbers[index],
            self.spread_replicas,
            steps,
            Fraction(self.traffic_limit),
        )

    def layers(self) -> list[Layer]:
        """All layers, in order."""
        return [self.layer(i) for i in range(self.num_layers)]

    def select(self, layers: Sequence[int]) -> Instance:
        """The same machine and rule with these rows only, in this order, under their old numbers.

        Raises:
            ValueError: there is no such layer.
        """
        rows = list(layers)
        missing = [row for row in rows if not 0 <= row < self.num_layers]
        if missing or not rows:
            raise ValueError(
                f"layers {missing} are not among the {self.num_layers} of the instance"
            )
        loads = self.loads[rows] if self.trace is None else self.trace[:, rows]
        chosen = replace(self, loads=loads)
        object.__setattr__(chosen, "numbers", tuple(self.numbers[row] for row in rows))
        return chosen


def _resolve_rule(rule: str, topology: Topology, num_experts: int) -> Rule:
    nodes, groups = topology.num_nodes, topology.num_groups
    if rule == "auto":
        rule = Rule.HIERARCHICAL if nodes > 1 and groups % nodes == 0 else Rule.GLOBAL
    if rule not in list(Rule):
        raise ValueError(f"rule={rule!r} is not one of auto, {', '.join(Rule)}")
    if rule != Rule.GLOBAL:
        if groups % nodes:
            raise ValueError(
                f"num_groups={groups} is not a multiple of num_nodes={nodes}: "
                f"the rule {str(rule)!r} gives every node the same number of groups"
            )
        if num_experts % groups:
            raise ValueError(
                f"num_logical_experts={num_experts} is not a multiple of num_groups={groups}: "
                "groups have equal size"
            )
    return Rule(rule)


def _limit(given: Fraction | float | str, rule: Rule) -> Fraction:
    """The limit of traffic as an exact number.

    Raises:
        ValueError: it is none from 0 to 1, or one below 1 under another rule than ``home``.
    """
    try:
        limit = Fraction(str(given) if isinstance(given, float) else given)
    except (TypeError, ValueError, ArithmeticError):
        limit = Fraction(-1)
    if not 0 <= limit <= 1:
        raise ValueError(f"traffic_limit={given!r} is not a part of the tokens, from 0 to 1")
    if limit < 1 and rule != Rule.HOME:
        raise ValueError(f"traffic_limit={given!r} needs rule='home', not {str(rule)!r}")
    return limit
