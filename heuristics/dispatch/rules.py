"""The one table of dispatch rules by name, and the one reading of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from heuristics.dispatch.interior_point import shares
from heuristics.dispatch.lplb import lplb
from heuristics.dispatch.slots import even_shares

ShareRule = Callable[[Tensor, Tensor, int], Tensor]
"""(loads [..., L, E], phy2log [L, P], number of ranks G) -> shares [..., L, P]."""


class UnknownDispatcherError(ValueError):
    """There is no dispatch rule of such a name."""


def even(loads: Tensor, phy2log: Tensor, num_ranks: int) -> Tensor:  # noqa: ARG001
    """``1 / c_e`` in every step."""
    return even_shares(phy2log, loads.shape[-1]).expand(*loads.shape[:-1], -1)


SHARE_RULES: dict[str, ShareRule] = {"even": even, "sweeps": shares, "lplb": lplb}
"""The rules by name; those of ``COUNTED`` take a number after a colon."""

COUNTED = {"sweeps": ("sweeps", 0), "lplb": ("steps", 1)}
"""The argument that the number is, and the least number."""


def share_rule(name: str) -> ShareRule:
    """The dispatch rule of a name: ``even``; ``sweeps`` or ``sweeps:N``; ``lplb`` or ``lplb:N``.

    N is the number of steps of our interior-point method, 0 for even shares, or of LPLB's.

    Raises:
        UnknownDispatcherError: there is no such rule, or it takes no such number.

    Example:
        >>> import torch
        >>> share_rule("sweeps:4")(torch.tensor([[30.0, 10]]), torch.tensor([[0, 1, 0, 1]]), 2)
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    rule, colon, number = name.partition(":")
    if rule in SHARE_RULES and not colon:
        return SHARE_RULES[rule]
    if rule in COUNTED and number.isascii() and number.isdecimal():
        argument, least = COUNTED[rule]
        if int(number) >= least:
            return partial(SHARE_RULES[rule], **{argument: int(number)})
    counted = ", ".join(f"{rule}:N with N at least {least}" for rule, (_, least) in COUNTED.items())
    raise UnknownDispatcherError(
        f"dispatcher={name!r} is not one of {', '.join(SHARE_RULES)}, {counted}"
    )
