"""One rank of an engine: ``python sglang_rank.py FOLDER RANK`` serves FOLDER/traffic.npz.

Writes FOLDER/RANK.npz, the slots of the tokens of each step and layer.
"""

import sys

import numpy as np
import torch
import torch.distributed as dist

NUM_RANKS = 2


class Group:
    """The calls of SGLang's group of ranks; the argument of a sum stays as it is."""

    def __init__(self, rank: int) -> None:
        self.rank_in_group = rank

    def all_gather(self, input_: torch.Tensor, dim: int) -> torch.Tensor:
        parts = [torch.empty_like(input_) for _ in range(NUM_RANKS)]
        dist.all_gather(parts, input_)
        return torch.cat(parts, dim)

    def all_reduce(self, input_: torch.Tensor) -> torch.Tensor:
        total = input_.clone()
        dist.all_reduce(total)
        return total


def serve(folder: str, rank: int) -> None:
    from sglang.srt.eplb.expert_location_dispatch import ExpertLocationDispatchInfo
    from sglang.srt.moe_ep_setup import init_lplb_solvers
    from sglang.srt.plugins import load_plugins
    from sglang.srt.topk import select_experts

    load_plugins()
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=NUM_RANKS)
    traffic = {k: torch.from_numpy(v) for k, v in np.load(f"{folder}/traffic.npz").items()}
    phy2log, log2phy, logcnt = (traffic[k] for k in ("phy2log", "log2phy", "logcnt"))
    init_lplb_solvers(phy2log, log2phy, logcnt, NUM_RANKS, Group(rank))
    served = {}
    for step in range(int(traffic["steps"])):
        if step == 1:  # experts move: the maps change in place
            for name in ("phy2log", "log2phy", "logcnt"):
                traffic[name].copy_(traffic[f"next_{name}"])
        for layer in range(len(phy2log)):
            info = ExpertLocationDispatchInfo(
                "lp", None, log2phy[layer], logcnt[layer], phy2log.shape[1]
            )
            ids = traffic[f"ids_{step}_{layer}_{rank}"]
            served[f"{step}_{layer}"] = select_experts(ids, info, layer).numpy()
    np.savez(f"{folder}/{rank}.npz", **served)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
