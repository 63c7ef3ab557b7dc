"""Placements that change while a model serves, over ``torch.distributed``."""

from eplb_opt.serving.runtime.process_group import Group, TransferError
from eplb_opt.serving.runtime.runtime import Runtime, Served

__all__ = ["Group", "Runtime", "Served", "TransferError"]
