"""What a serving engine relies on: the contracts of a dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.policies.dispatchers import DispatcherRunner
from eplb_opt.testing.dispatchers.cases import cases, ring, small_case
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
DTYPE_TOLERANCE = 1e-3
"""So much above that for float32 a makespan for other dtypes may be, relatively."""
MORE_RANKS = ((12, 3), (15, 5), (16, 16), (24, 24))
"""Slots and ranks of further placements of eight experts."""


class Asked:
    """A dispatcher that is asked for whole cases; its answers are checked.

    Attributes:
        wrote: the first case in which it wrote into its input, or nothing.
        above_even: it is above even shares, which is told once and not of every case.
    """

    def __init__(self, runner: DispatcherRunner) -> None:
        self.runner = runner
        self.wrote, self.above_even = "", False

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
        """The answer, which is valid; a first write into the input is an error, too."""
        known = self.wrote
        found: NDArray[Any] = self.values(case, dtype, strided=strided)
        check_answer(found, case)
        if self.wrote != known:
            raise AssertionError(f"it wrote into its input: {self.wrote}")
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


def takes(case: Case, ask: Asked) -> None:
    """The answer is valid, and never above even shares."""
    values = ask(case)
    if not ask.above_even:
        check_not_above_even(values, case)


def takes_dtype(dtype: Any, ask: Asked) -> None:
    """Loads of that dtype are served as well as the same loads in float32."""
    case = small_case(12, 4)
    found, known = (makespans(ask(case, t), case) for t in (dtype, np.float32))
    worse = found > known * (1 + DTYPE_TOLERANCE)
    if worse.any():
        step, layer = np.argwhere(worse)[0].tolist()
        raise AssertionError(
            f"{case.source}: step {step}, layer {layer}: makespan {found[step, layer]:g}, but "
            f"{known[step, layer]:g} for the same loads in float32"
        )


def takes_fractions(ask: Asked) -> None:
    """Loads that are no whole numbers, as means are, if the answer is shares."""
    case = small_case(12, 4)
    if not is_whole(ask(case)):
        parts = case.loads / 8  # exact in float32
        takes(replace(case, source="loads in eighths", loads=parts), ask)  # type: ignore[arg-type]


def takes_other_placement(ask: Asked) -> None:
    """Experts may move between two calls whose shapes are the same."""
    for case in (cases()[0], cases()[4]):
        ask(case)
        takes(replace(case, phy2log=case.phy2log[:, ::-1].copy()), ask)


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


def _many_steps() -> Case:
    """45 steps of nine layers; engines have some 60."""
    case = small_case(12, 4)
    loads, phy2log = np.tile(case.loads, (5, 3, 1)), np.tile(case.phy2log, (3, 1))
    return replace(case, source="45 steps of 9 layers", loads=loads, phy2log=phy2log)


def _many_tokens() -> Case:
    """More in a step than int32 holds; each load is exact in float32."""
    case = small_case(12, 4)
    return replace(case, source="loads of up to 4e9", loads=case.loads * 4096)


def _ring_of_320() -> Case:
    """Two steps, one of which is what the placement was made for."""
    loads = np.arange(320) ** 3 % 1009  # no order
    served = np.array([loads, loads[::-1]])
    return Case("320 experts in a ring on 32 ranks", served[:, None], ring(loads[None], 32), 32)


@cache
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
        "many steps and layers": _many_steps(),
        "many tokens": _many_tokens(),
        "320 experts": _ring_of_320(),
        **{f"{ranks} ranks": small_case(slots, ranks) for slots, ranks in MORE_RANKS},
    }
    dtypes = {"float64": np.float64, "int64": np.int64}
    return {
        **{f"loads in {name}": partial(takes_dtype, t) for name, t in dtypes.items()},
        "fractional loads": takes_fractions,
        "strided tensors": takes_strided,
        **{name: partial(takes, case) for name, case in corners.items()},
        "another placement": takes_other_placement,
        "deterministic": is_deterministic,
        "a batch is its steps": goes_step_by_step,
    }
