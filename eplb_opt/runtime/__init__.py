"""Placements that change while a model serves, over ``torch.distributed``."""

from eplb_opt.runtime.group import Group, TransferError
from eplb_opt.runtime.runtime import Runtime, Served

__all__ = ["Group", "Runtime", "Served", "TransferError"]
