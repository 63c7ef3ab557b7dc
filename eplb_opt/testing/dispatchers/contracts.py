"""What a serving engine relies on: the contracts of a dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.dispatchers import DispatcherRunner
from eplb_opt.testing.dispatchers.cases import cases, small_case
from eplb_opt.testing.dispatchers.measure import (
    Case,
    by_rank,
    check_answer,
    even_limits,
    is_whole,
    makespans,
    slot_tokens,
)

ABOVE_EVEN = 1e-6
"""So much above even shares a makespan may be, relatively: shares are float32."""
STEP_TOLERANCE = 1e-5
"""So much of the mean rank load a step of a batch may differ from the step alone."""


class Asked:
    """A dispatcher that is asked for whole cases; its answers are checked.

    Attributes:
        wrote: the first case in which it wrote into its input, or nothing.
    """

    def __init__(self, runner: DispatcherRunner) -> None:
        self.runner = runner
        self.wrote = ""

    def values(self, case: Case, dtype: Any = np.float32, *, strided: bool = False) -> Any:
        """The answer as it is, for the loads of ``case`` in that type."""
        loads = case.loads.astype(dtype)
        answer = self.runner.call(loads, case.phy2log, case.num_ranks, strided=strided)
        if answer.wrote_into_input:
            self.wrote = self.wrote or case.source
        return answer.values

    def __call__(
        self, case: Case, dtype: Any = np.float32, *, strided: bool = False
    ) -> NDArray[Any]:
        """The answer, which is valid."""
        found: NDArray[Any] = self.values(case, dtype, strided=strided)
        check_answer(found, case)
        return found


def check_not_above_even(values: NDArray[Any], case: Case) -> None:
    """No makespan is above that of even shares, see :func:`even_limits`.

    Raises:
        AssertionError: names the step that is furthest above.
    """
    found, limits = makespans(values, case), even_limits(case, whole=is_whole(values))
    above = found > limits * (1 + ABOVE_EVEN)
    if above.any():
        worst = np.unravel_index(np.argmax(found / np.maximum(limits, 1e-300)), found.shape)
        *steps, layer = (int(i) for i in worst)
        step = f"step {', '.join(map(str, steps))}, " if steps else ""
        raise AssertionError(
            f"{case.source}: {step}layer {layer}: makespan {found[worst]:g}, but {limits[worst]:g} "
            f"with even shares, in {int(above.sum())} of {above.size} dispatches"
        )


def takes(case: Case, ask: Asked, dtype: Any = np.float32, *, strided: bool = False) -> None:
    """The answer is valid, and never above even shares."""
    check_not_above_even(ask(case, dtype, strided=strided), case)


def takes_strided(ask: Asked) -> None:
    """Tensors that are not contiguous give what their copies give."""
    case = cases()[0]
    if not same(ask(case, strided=True), ask(case)):
        raise AssertionError(f"{case.source}: another answer for strided tensors")


def is_deterministic(ask: Asked) -> None:
    """Three calls for a case give the same bits, whatever was asked in between."""
    for case, between in ((cases()[0], cases()[1]), (cases()[4], cases()[2])):
        first = ask(case)
        for other in (between, replace(case, loads=case.loads[::-1])):
            ask(other)
            if not same(ask(case), first):
                raise AssertionError(f"{case.source}: two calls gave different answers")


def goes_step_by_step(ask: Asked) -> None:
    """A batch of steps gives each step the rank loads that it has alone."""
    for case in (cases()[0], cases()[4]):
        together = ask(case)
        for t in range(len(case.loads)):
            step = replace(case, loads=case.loads[t : t + 1])
            pair = (together[t : t + 1], ask(step))
            ours, alone = (by_rank(slot_tokens(values, step), step) for values in pair)
            far = float((np.abs(ours - alone) / np.maximum(step.mean_loads, 1e-9)[..., None]).max())
            if far > STEP_TOLERANCE:
                raise AssertionError(
                    f"{case.source}: step {t} alone has other rank loads than in a batch, by "
                    f"{far:.3%} of the mean"
                )


def same(ours: NDArray[Any], other: NDArray[Any]) -> bool:
    """Bit by bit: ranks that decide for themselves must agree."""
    return ours.dtype == other.dtype and np.array_equal(ours, other)


def _one_layer(phy2log: list[int], num_ranks: int, name: str) -> Case:
    experts = max(phy2log) + 1
    rows = np.array([[7, 1, 4, 2, 9, 3][:experts], [1] * experts, [0] * (experts - 1) + [8]])
    return Case(name, rows[:, None], np.array([phy2log]), num_ranks)


def _reshaped(*leading: int) -> Case:
    """A small case whose loads have other axes before the layers."""
    case = small_case(12, 4)
    number = int(np.prod(leading, dtype=int))
    loads = case.loads[:number].reshape(*leading, *case.loads.shape[1:])
    return replace(case, source=f"loads of {list(loads.shape)}", loads=loads)


def contracts() -> dict[str, Callable[[Asked], None]]:
    """Name -> check, which raises AssertionError or PolicyError that says what is wrong."""
    small = small_case(12, 4)
    none = replace(small, source="no load", loads=np.zeros_like(small.loads))
    corners = {
        "no load at all": none,
        "no step": _reshaped(0),
        "loads [L, E] without steps": _reshaped(),
        "loads [B, T, L, E]": _reshaped(2, 3),
        "one replica each": small_case(8, 4),
        "one rank": small_case(10, 1),
        "one slot a rank": _one_layer([2, 0, 1, 3], 4, "4 experts in 4 slots of 4 ranks"),
        "copies on one rank": _one_layer([0, 0, 1, 0, 2, 2], 2, "copies on one rank"),
        "one expert everywhere": _one_layer([0, 0, 0, 0], 2, "one expert in 4 slots"),
    }
    dtypes = {"float64": np.float64, "int64": np.int64}
    return {
        **{f"loads in {name}": partial(takes, small, dtype=t) for name, t in dtypes.items()},
        "strided tensors": takes_strided,
        **{name: partial(takes, case) for name, case in corners.items()},
        "deterministic": is_deterministic,
        "a batch is its steps": goes_step_by_step,
    }
