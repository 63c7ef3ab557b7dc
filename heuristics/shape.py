"""The arguments of ``rebalance_experts``, checked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_SUM = torch.finfo(torch.float32).max
"""Of the loads of a layer: some stages add in float32, as DeepSeek EPLB does."""


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
            ValueError: loads are no [L, E], negative, or beyond float32; a size is not positive, or
                one that must divide another does not.
        """
        sizes = {
            "num_replicas": num_replicas,
            "num_groups": num_groups,
            "num_nodes": num_nodes,
            "num_gpus": num_gpus,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be positive")
        _check_weight(weight)
        experts = weight.shape[1]
        if num_replicas < experts:
            raise ValueError(
                f"num_replicas={num_replicas} is less than {experts} experts: all need a slot"
            )
        _check_multiple("num_replicas", num_replicas, "num_gpus", num_gpus)
        if num_groups % num_nodes:
            return Shape(num_replicas, 1, 1, num_gpus)
        _check_multiple("num_gpus", num_gpus, "num_nodes", num_nodes)
        _check_multiple("the number of experts", experts, "num_groups", num_groups)
        return Shape(num_replicas, num_groups, num_nodes, num_gpus)


def _check_weight(weight: Tensor) -> None:
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weight of shape {tuple(weight.shape)} is not [layers, experts]")
    if weight.is_complex() or weight.dtype == torch.bool:
        raise ValueError(f"weight must hold real numbers, not {weight.dtype}")
    if weight.device.type != "cpu":  # a test would make the host wait for the device
        return
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError(
            "weight holds a load that is negative, NaN or infinite: clean the recording"
        )
    largest = float(weight.double().sum(1).max())
    if largest > LARGEST_SUM:
        raise ValueError(
            f"weight has a layer whose loads sum to {largest:g}, more than float32 holds: divide "
            "them by a common factor"
        )


def _check_multiple(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        raise ValueError(f"{name}={value} is not a multiple of {by_name}={by}")
