"""One step of one layer in exact arithmetic: a dispatcher's makespan, and the proven optimum."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.dispatchers import AnyDispatcher, DispatcherRunner
from eplb_opt.problem.evidence import Cuts
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import SUM, Cost, Dispatch
from eplb_opt.problem.topology import Topology
from eplb_opt.testing.dispatchers.measure import Case, check_answer, is_whole
from solvers.dispatch import value, value_evidence


@dataclass(frozen=True)
class Served:
    """What a dispatcher makes of a step, all exact.

    Attributes:
        loads: [E] tokens.
        phy2log: [P] the expert in each slot.
        makespan: of the shares as they are, those of an expert divided by their sum; or of the
            whole tokens.
        optimum: least makespan of this placement; in whole tokens the next integer.
        critical: ranks U that prove it: the experts on no other rank have |U| times the optimum,
            before it is rounded up.
        whole: the dispatcher returned whole tokens.
    """

    loads: tuple[int, ...]
    phy2log: tuple[int, ...]
    makespan: Fraction
    optimum: Fraction
    critical: tuple[int, ...]
    whole: bool

    @property
    def ratio(self) -> Fraction:
        """Makespan over optimum; 1 without load."""
        return self.makespan / self.optimum if self.optimum else Fraction(1)

    def load_inside(self, num_ranks: int) -> int:
        """Tokens of the experts that are on ranks in ``critical`` alone."""
        slots_per_rank = len(self.phy2log) // num_ranks
        outside = {
            e for p, e in enumerate(self.phy2log) if p // slots_per_rank not in self.critical
        }
        return sum(load for e, load in enumerate(self.loads) if e not in outside)


def measure_dispatch(
    dispatcher: AnyDispatcher | DispatcherRunner,
    loads: Sequence[int],
    phy2log: Sequence[int],
    num_ranks: int,
) -> Served:
    """Call a dispatcher for loads [1, 1, E] and a placement [1, P]; what it costs, exactly.

    Raises:
        PolicyError: it has no answer.
        BadAnswerError: these are neither shares nor whole tokens.
    """
    case = Case("one step", np.array([[loads]]), np.array([phy2log]), num_ranks)
    opened = (
        nullcontext(dispatcher)
        if isinstance(dispatcher, DispatcherRunner)
        else DispatcherRunner(dispatcher)
    )
    with opened as runner:
        values = runner.call(case.loads.astype(np.float32), case.phy2log, num_ranks).values
    check_answer(values, case)
    return exact_dispatch(values[0, 0], loads, phy2log, num_ranks)


def exact_dispatch(
    values: NDArray[Any], loads: Sequence[int], phy2log: Sequence[int], num_ranks: int
) -> Served:
    """The same for a valid answer ``values`` [P]."""
    whole = is_whole(values)
    layer = Instance(np.array([loads]), Topology(len(phy2log), num_ranks)).layer(0)
    optimum = value(layer, phy2log, SUM, Dispatch.OPTIMAL).bound
    evidence = value_evidence(layer, phy2log, Cost(SUM, Dispatch.OPTIMAL))
    critical = evidence.ranks[0] if isinstance(evidence, Cuts) else ()
    makespan = _makespan(values.tolist(), loads, phy2log, num_ranks, whole)
    optimum = Fraction(-(-optimum // 1)) if whole else optimum
    return Served(tuple(loads), tuple(phy2log), makespan, optimum, critical, whole)


def _makespan(
    values: list[Any], loads: Sequence[int], phy2log: Sequence[int], num_ranks: int, whole: bool
) -> Fraction:
    parts = [Fraction(part) for part in values]
    if not whole:
        sums = [Fraction(0)] * len(loads)
        for e, part in zip(phy2log, parts, strict=True):
            sums[e] += part
        parts = [loads[e] * part / sums[e] for e, part in zip(phy2log, parts, strict=True)]
    S = len(phy2log) // num_ranks
    return max(sum(parts[i : i + S], Fraction(0)) for i in range(0, len(parts), S))
