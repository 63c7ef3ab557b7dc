"""Kernels that each policy would launch on an accelerator, and copies for which the host waits.

Run: python -m benchmarks.kernel_counts [--shapes 0 1 2] [--policies NAME ..]

No accelerator is needed: the policies run on a device that only poses as one
(``tests/heuristics/posing.py``). A kernel is a tensor operation that is no view; some, such as a
sort, start several. Copies are reads of values on the host, sizes that the device knows, and
numbers sent from the host; tables that are made once and kept are not counted. "without" is a
device without Triton.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from heuristics.policies import TABLE, deepseek, maps, placer
from heuristics.refined import EFFORTS, refined
from tests.heuristics.posing import on_device

LAYERS = 58
SHAPES = [(256, 288, 32), (256, 320, 64), (256, 288, 96)]
"""(experts, slots, ranks)"""
KEEPING = ("refined:relabel", "refined:40")
"""Policies that start from the placement until now."""

Place = Callable[[Tensor, Tensor], Tensor]
"""(loads [L, E], the placement until now [L, P]) -> the new one [L, P]"""


def policies(num_slots: int, num_ranks: int) -> dict[str, Place]:
    """By name; ``maps`` are the two further maps, which every policy's drop-in makes as well."""
    sizes = (num_slots, 1, 1, num_ranks)

    def anew(place: Callable[..., Tensor]) -> Place:
        return lambda loads, _: place(loads, *sizes)

    def keeping(name: str) -> Place:
        return lambda loads, old: placer(name)(loads, *sizes, old=old)

    table = {name: anew(policy) for name, policy in TABLE.items() if name != "refined"}
    table |= {f"refined {e}": anew(partial(refined, effort=e)) for e in EFFORTS}
    table |= {name: keeping(name) for name in KEEPING}
    return table | {"maps": lambda loads, old: maps(old, loads.shape[1])[1]}


def draw_loads(experts: int) -> tuple[Tensor, Tensor]:
    """Lognormal loads of all layers, and the loads before."""
    rng = torch.Generator().manual_seed(0)
    loads = torch.randn(LAYERS, experts, generator=rng).exp() * 1000
    return loads, loads * (0.3 * torch.randn(LAYERS, experts, generator=rng)).exp()


def count(shape: tuple[int, int, int], names: list[str] | None) -> Iterator[str]:
    """A line for each policy."""
    experts, num_slots, num_ranks = shape
    loads, before = draw_loads(experts)
    old = deepseek(before, num_slots, 1, 1, num_ranks)
    for name, place in policies(num_slots, num_ranks).items():
        if names and name not in names:
            continue
        found, device = on_device(place, loads, old)
        _, without = on_device(place, loads, old, triton=False)
        what = ", ".join(f"{k} {n}" for k, n in device.copies.items())
        same = "" if torch.equal(found, place(loads, old)) else "  NOT WHAT A CPU PLACES"
        kernels = f"{device.kernels.total():>7} {without.kernels.total():>8}"
        yield f"{name:<18} {kernels} {device.copies.total():>7}  {what}{same}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, nargs="+", default=range(len(SHAPES)))
    parser.add_argument("--policies", nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for shape in options.shapes:
        print(f"\n{SHAPES[shape]}, {LAYERS} layers")
        print(f"{'':<18} {'kernels':>7} {'without':>8} {'copies':>7}")
        for line in count(SHAPES[shape], options.policies):
            print(line, flush=True)


if __name__ == "__main__":
    main()
