"""The arguments of ``rebalance_experts``, checked; a policy that takes no steps gets their sum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_SUM = torch.finfo(torch.float32).max
"""Of the loads of a layer: some stages add in float32, as DeepSeek EPLB does."""


class ArgumentError(ValueError, AssertionError):
    """An argument does not fit; the message names it.

    Engines assert their arguments, and their tests expect that; elsewhere a ValueError is usual.
    """


@dataclass(frozen=True)
class Shape:
    """Sizes of the machine; nodes and groups are 1 under the global rule."""

    num_slots: int
    num_groups: int
    num_nodes: int
    num_ranks: int

    @staticmethod
    def resolve(
        weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> Shape:
        """Check the arguments of ``rebalance_experts``; hierarchical if ``num_groups % num_nodes
        == 0``.

        Raises:
            ArgumentError: loads are no [L, E], negative, or beyond float32; a size is not positive,
                or one that must divide another does not.
        """
        sizes = {
            "num_replicas": num_replicas,
            "num_groups": num_groups,
            "num_nodes": num_nodes,
            "num_gpus": num_gpus,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ArgumentError(f"{name}={size} must be positive")
        if weight.ndim != 2:
            raise ArgumentError(f"weight of shape {tuple(weight.shape)} is not [layers, experts]")
        check_weight(weight)
        experts = weight.shape[1]
        if num_replicas < experts:
            raise ArgumentError(
                f"num_replicas={num_replicas} is less than {experts} experts: all need a slot"
            )
        check_multiple("num_replicas", num_replicas, "num_gpus", num_gpus)
        if num_groups % num_nodes:
            return Shape(num_replicas, 1, 1, num_gpus)
        check_multiple("num_gpus", num_gpus, "num_nodes", num_nodes)
        check_multiple("the number of experts", experts, "num_groups", num_groups)
        return Shape(num_replicas, num_groups, num_nodes, num_gpus)


RULES = ("auto", "global", "hierarchical", "home")


def under_rule(rule: str, traffic: float, num_groups: int, num_nodes: int) -> tuple[int, int]:
    """Groups and nodes that make a program which looks at ``num_groups % num_nodes`` follow a rule:
    one of each for ``global``.

    Raises:
        ArgumentError: there is no such rule, nodes do not divide groups under one that needs it, or
            ``traffic`` is no part of the tokens, or below 1 under another rule than ``home``.
    """
    if rule not in RULES:
        raise ArgumentError(f"rule={rule!r} is not one of {', '.join(RULES)}")
    if not 0 <= traffic <= 1:
        raise ArgumentError(f"traffic={traffic} is not a part from 0 to 1")
    if traffic < 1 and rule != "home":
        raise ArgumentError(f"traffic={traffic} is for rule='home', not rule={rule!r}")
    if rule in ("hierarchical", "home") and min(num_groups, num_nodes) > 0:
        check_multiple(f"rule={rule!r}: num_groups", num_groups, "num_nodes", num_nodes)
    return (1, 1) if rule == "global" else (num_groups, num_nodes)


def check_weight(weight: Tensor) -> None:
    """Check tokens [L, E], or [T, L, E] at each step.

    Raises:
        ArgumentError: another shape, no real numbers, a load that is negative or not finite, or a
            layer whose sum, over all steps, is beyond float32.
    """
    if weight.ndim not in (2, 3) or 0 in weight.shape:
        raise ArgumentError(
            f"weight of shape {tuple(weight.shape)} is not [layers, experts], nor [steps, layers, "
            "experts]"
        )
    if weight.is_complex() or weight.dtype == torch.bool:
        raise ArgumentError(f"weight must hold real numbers, not {weight.dtype}")
    if weight.device.type != "cpu":  # a test would make the host wait for the device
        return
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ArgumentError(
            "weight holds a load that is negative, NaN or infinite: clean the recording"
        )
    layers = weight.sum(-1, dtype=torch.float64)
    largest = float((layers if weight.ndim == 2 else layers.sum(0)).max())
    if largest > LARGEST_SUM:
        raise ArgumentError(
            f"weight has a layer whose loads sum to {largest:g}, more than float32 holds: divide "
            "them by a common factor"
        )


def sum_over_steps(weight: Tensor) -> Tensor:
    """Loads [L, E] of steps [T, L, E], which are checked first.

    Raises:
        ArgumentError: as of :func:`check_weight`.
    """
    check_weight(weight)
    if not weight.is_floating_point() or weight.dtype == torch.float64:
        return weight.sum(0)
    # Added exactly enough that the sum of a layer does not depend on what stands beside it.
    return weight.sum(0, dtype=torch.float64).float()


UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
"""For which torch has hardly any operation."""


def as_loads(weight: Tensor) -> Tensor:
    """``weight`` in a dtype that can be worked with, and without gradients."""
    weight = weight.detach()
    return weight.double() if weight.dtype in UNSIGNED else weight


def check_multiple(name: str, value: int, by_name: str, by: int) -> None:
    """Check that ``by`` divides ``value``.

    Raises:
        ArgumentError: it does not.
    """
    if value % by:
        raise ArgumentError(f"{name}={value} is not a multiple of {by_name}={by}")
