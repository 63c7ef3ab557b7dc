"""Production heuristics for expert placement: torch, batched over layers, on any device.

A policy is a choice of stages: groups -> counts -> packing -> refinement -> maps. Here for a layer
of 8 experts in 4 groups, on 2 nodes of 2 ranks of 3 slots:

>>> import torch
>>> from heuristics import grouping, packing, pair_resplit, pipeline, replication
>>> weight = torch.tensor([[90.0, 40, 60, 30, 20, 70, 15, 50]])
>>> place = pipeline.Pipeline(
...     pack_groups=grouping.groups_by_reach,  # whole groups of experts to nodes
...     count=replication.greedy_replicas,  # a node's slots to its experts
...     pack=packing.by_load(packing.lpt),  # replicas to the node's ranks
...     refinements=[pair_resplit.resplit_pairs],  # the replicas of two ranks split anew
... )
>>> phy2log = place(weight, num_replicas=12, num_groups=4, num_nodes=2, num_gpus=4)
>>> phy2log, log2phy, logcnt = pipeline.maps(phy2log, num_experts=8)
>>> phy2log.view(4, 3).tolist(), logcnt.tolist()
([[0, 1, 6], [0, 7, 7], [4, 5, 5], [2, 2, 3]], [[2, 1, 2, 1, 1, 2, 1, 2]])

How the stages are run stands in :meth:`pipeline.Pipeline.place`, 20 lines that all policies share.

- ``replication``, ``packing``, ``grouping``, ``pair_resplit``, ``count_search``: our stages;
- ``home_groups``, ``contents``: under the rule ``home``, homes of groups and the copies of nodes;
- ``refined``: our policy, made of them; ``matching`` and ``migration`` let it start from an old
  placement;
- ``steps``: policies that look at every step of a trace, made for a dispatcher;
- ``dispatch``: dispatchers, which share the tokens of a step anew;
- ``published``: the four seed programs, made of stages of their own;
- ``policies``: the names of all these; ``engines``: what serving engines call.
"""

from heuristics.engines.sglang import rebalance_experts_sglang
from heuristics.engines.vllm import RefinedEplbPolicy
from heuristics.policies import POLICIES, rebalance_experts

__all__ = ["POLICIES", "RefinedEplbPolicy", "rebalance_experts", "rebalance_experts_sglang"]
