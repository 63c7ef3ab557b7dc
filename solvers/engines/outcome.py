"""What an engine found of a model, and what that says about a placement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from eplb_opt.problem.result import Limit
from solvers.bracket import Bracket


@dataclass(frozen=True)
class Outcome:
    """Of a model whose objective is minimized.

    Attributes:
        value: reads a variable in the best solution; None if no usable solution was found.
        bound: proven lower bound on the objective; None if nothing was proven.
        infeasible: the engine says that the model has no solution.
        limit: what ended the search before that; None if it came to its end.
    """

    value: Callable[[Any], int] | None
    bound: int | Fraction | None
    infeasible: bool
    limit: Limit | None


def with_outcome(
    known: Bracket,
    outcome: Outcome,
    found: Bracket | None,
    unit: Fraction,
    engine: str,
    *,
    in_floats: bool = False,
) -> Bracket:
    """What is known with an engine's outcome; its bound rests on its word.

    Args:
        known: before.
        outcome: its objective counts multiples of ``unit`` tokens.
        found: the placement of its solution, valued; None if that is none.
        unit: tokens.
        engine: whose word it is.
        in_floats: the engine computes in floats: a bound above the best placement is nonsense, and
            is dropped.
    """
    known = replace(known, limit=outcome.limit)
    if found is not None:
        known = known.with_placement(found)
    if outcome.bound is None or (
        in_floats and known.value is not None and outcome.bound * unit > known.value
    ):
        return known
    return known.with_bound(outcome.bound * unit, engine)
