"""The tensor operations of a dispatcher: how many, and that none waits for the device.

``python -m tests.heuristics.dispatch.operations`` counts those of one layer, (256, 288, 32).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from heuristics import dispatch
from heuristics.dispatch.fused import Plan
from heuristics.dispatch.lplb import lplb
from heuristics.engines.sglang_dispatch import LPLBSolver

WAITING = {
    "_local_scalar_dense": "item(), int(tensor), if tensor",
    "nonzero": "where with one argument",
    "equal": "comparing whole tensors",
    "masked_select": "a size that the device knows",
    "_unique2": "a size that the device knows",
    "unique_dim": "a size that the device knows",
    "unique_consecutive": "a size that the device knows",
    "bincount": "a size that the device knows",
    "repeat_interleave": "a size that the device knows",
    "_cholesky_solve_helper": "whether it succeeded: use solve_triangular",
    "_linalg_check_errors": "an error that the device knows: use the _ex form",
}
NO_KERNEL = {"detach", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
NO_KERNEL |= {"lift_fresh", "_unsafe_view", "_reshape_alias", "resolve_conj", "resolve_neg"}


def name_of(func: Any) -> str:
    """Of an operation, the same in place."""
    return str(func._schema.name).removeprefix("aten::").removesuffix("_")


def starts_kernel(func: Any) -> bool:
    """Whether an operation starts a kernel or several: it is no view and no allocation."""
    return not (func.is_view or name_of(func) in NO_KERNEL)


def why_it_waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """What the host waits for in an operation on tensors of a device; None if it does not."""
    name = name_of(func)
    if name == "repeat_interleave" and kwargs.get("output_size") is not None:
        return None
    indices = args[1] if name in {"index", "index_put", "_index_put_impl"} else ()
    if any(i is not None and i.dtype in {torch.bool, torch.uint8} for i in indices):
        return "a mask, a size that the device knows"
    return WAITING.get(name)


class Operations(TorchDispatchMode):
    """Counts operations that start a kernel or several, by name; those that wait are errors."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without what torch would import here to compile functions, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if why := why_it_waits(func, args, kwargs):
            raise AssertionError(f"{name_of(func)} waits for the device: {why}")
        if starts_kernel(func):
            self.counts[name_of(func)] += 1
        return func(*args, **kwargs)


def log2phy_of(phy2log: Tensor, num_experts: int) -> Tensor:
    """[E, X] the slots of each expert of one layer, padded with -1."""
    slots = [(phy2log == e).nonzero().flatten() for e in range(num_experts)]
    return torch.nn.utils.rnn.pad_sequence(slots, batch_first=True, padding_value=-1)


def functions(loads: Tensor, phy2log: Tensor, num_ranks: int) -> dict[str, Callable[[], object]]:
    """What is called in every step, and ``fixed_shares``; loads [..., L, E], phy2log [L, P]."""
    num_experts = loads.shape[-1]
    steps = loads.reshape(-1, *loads.shape[-2:])
    share = dispatch.shares(loads, phy2log, num_ranks)
    tokens = dispatch.whole(loads, phy2log, share, num_ranks)
    ids = torch.arange(8 * num_experts).view(-1, 8) % num_experts
    counts = torch.ones(4, num_experts, dtype=torch.int64)
    before = dispatch.tokens_before(counts)[1]
    one = tokens.reshape(-1, tokens.shape[-1])[0]
    solver = LPLBSolver(phy2log[0], log2phy_of(phy2log[0], num_experts), num_ranks)
    step = solver.solve(ids).step
    return {
        "shares": lambda: dispatch.shares(loads, phy2log, num_ranks),
        "fixed_shares": lambda: dispatch.fixed_shares(steps, phy2log, num_ranks),
        "whole": lambda: dispatch.whole(loads, phy2log, share, num_ranks),
        "expert_counts": lambda: dispatch.expert_counts(ids, num_experts),
        "tokens_before": lambda: dispatch.tokens_before(counts),
        "own_tokens": lambda: dispatch.own_tokens(loads, phy2log, share, 1),
        "physical_ids": lambda: dispatch.physical_ids(ids, phy2log[0], one, before=before),
        "lplb": lambda: lplb(loads, phy2log, num_ranks),
        "Plan.of": lambda: Plan.of(phy2log, num_experts, num_ranks),
        "SGLang: solve": lambda: solver.solve(ids),
        "SGLang: tokens": lambda: step.physical_ids(ids, rank_invariant=False),
    }


def main() -> None:
    torch.manual_seed(0)
    loads = torch.rand(1, 256).mul(1000).long()
    phy2log = torch.cat([torch.arange(256), torch.randperm(256)[:32]])[torch.randperm(288)][None]
    for name, function in functions(loads, phy2log, 32).items():
        with Operations() as operations:
            function()
        most = ", ".join(f"{n} {k}" for k, n in operations.counts.most_common(5))
        print(f"{name:<16} {operations.counts.total():>5}   {most}")


if __name__ == "__main__":
    main()
