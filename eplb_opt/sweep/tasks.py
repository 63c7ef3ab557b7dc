"""From a spec to units of work, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from eplb_opt.problem.objective import EVEN_SUM, Cost
from eplb_opt.sweep.spec import Block, Generated, Machine, Recorded, Solver, Spec


@dataclass(frozen=True)
class Source:
    """Loads of one instance: a file or generated; one seed, or one window ``[first, last)``."""

    origin: Recorded | Generated
    seed: int | None = None
    window: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """A readable name, unique for different loads."""
        if isinstance(self.origin, Recorded):
            steps = "" if self.window is None else f"[{self.window[0]}:{self.window[1]}]"
            layers = "" if self.origin.layers is None else f"#{self.origin.layers}"
            return f"{self.origin.file}{steps}{layers}"
        given = self.origin.model_dump(exclude={"seeds"}, exclude_none=True)
        return " ".join([*map(str, given.values()), f"seed {self.seed}"])


@dataclass(frozen=True)
class Task:
    """All policies and solvers on one instance: they share the reference."""

    source: Source
    machine: Machine
    rule: str
    policies: tuple[str, ...]
    solvers: tuple[Solver, ...]
    cost: Cost = EVEN_SUM
    traffic: float = 1.0

    def unit(self, what: str | Solver) -> str:
        """The key of one row of results."""
        machine = self.machine
        slots = f"+{machine.redundant}" if machine.physical is None else f"{machine.physical} slots"
        nodes = f", {machine.nodes} nodes, {machine.groups} groups" if machine.nodes > 1 else ""
        name = what if isinstance(what, str) else solver_name(what)
        cost = "" if self.cost == EVEN_SUM else f" | {self.cost.objective}, {self.cost.dispatch}"
        rule = self.rule + (f" {self.traffic!r}" if self.traffic < 1 else "")
        place = f"{self.source.key} | {slots} on {machine.gpus}{nodes} | {rule}{cost}"
        return f"{place} | {name}"

    @property
    def units(self) -> list[str]:
        """The keys of all its rows."""
        return [*map(self.unit, self.policies), *map(self.unit, self.solvers)]

    def without(self, done: set[str]) -> Task:
        """What is left of the task when these units are done."""
        return replace(
            self,
            policies=tuple(p for p in self.policies if self.unit(p) not in done),
            solvers=tuple(s for s in self.solvers if self.unit(s) not in done),
        )


def solver_name(solver: Solver) -> str:
    """The name of an exact method in the column of policies."""
    return f"exact {solver.stage}/{solver.backend}/{solver.time_limit:g}s"


def tasks(spec: Spec) -> Iterator[Task]:
    """All tasks, in the order of the spec."""
    for block in spec.blocks:
        for source in sources(block):
            for machine in block.machines:
                for rule in block.rules:
                    what = tuple(block.policies), tuple(block.solvers)
                    for traffic in block.traffic if rule == "home" else [1.0]:
                        yield Task(source, machine, rule, *what, block.cost, traffic)


def left(spec: Spec, done: set[str]) -> Iterator[Task]:
    """What is left to do; a unit that the spec names twice is done once."""
    seen = set(done)
    for task in tasks(spec):
        rest = task.without(seen)
        if rest.units:
            seen.update(rest.units)
            yield rest


def sources(block: Block) -> Iterator[Source]:
    """The loads of a block: a seed or a window each."""
    for origin in block.instances:
        if isinstance(origin, Generated):
            yield from (Source(origin, seed=seed) for seed in origin.seeds)
        elif origin.window is None:
            yield Source(origin)
        else:
            steps = num_steps(origin.file)
            ends = range(origin.window, steps + 1, origin.window)
            yield from (Source(origin, window=(end - origin.window, end)) for end in ends)


def num_steps(file: str) -> int:
    """Steps of a trace.

    Raises:
        ValueError: the file has no time axis.
    """
    from eplb_opt.io import read_loads

    loads = read_loads(Path(file)).loads
    if loads.ndim != 3:
        raise ValueError(f"{file}: window needs a trace [steps, layers, experts]")
    return int(loads.shape[0])
