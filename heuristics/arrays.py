"""Steps that numpy does several times faster than torch on a CPU; elsewhere torch does them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def native(tensor: Tensor) -> Any:
    """A numpy view of a CPU tensor, the tensor itself elsewhere.

    The loops over replicas take one small step each. They use only what both kinds of array
    understand; on a CPU a numpy step costs half of a torch step, on other devices the tensor must
    stay where it is.
    """
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def argmin_rows(values: Tensor) -> Tensor:
    """The column of the least value of each row, [n] int64 from [n, m]; on a CPU the first of
    equals.
    """
    return torch.as_tensor(native(values).argmin(1))


def sort_rows(values: Tensor) -> Tensor:
    """The values of each row in ascending order."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return torch.sort(values, dim=1).values


def uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Random numbers in [0, 1) with the dtype and device of ``like``.

    Drawn on the CPU, so that a seed means the same on every device.
    """
    return torch.rand(shape, generator=generator, dtype=like.dtype).to(like.device)
