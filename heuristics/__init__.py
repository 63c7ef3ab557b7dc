"""Production heuristics for expert placement: torch, batched over layers, on any device.

The pipeline is groups -> counts -> packing -> refinement -> maps. Here one layer of 8 experts in 4
groups, on 2 nodes of 2 ranks of 3 slots:

>>> import torch
>>> from heuristics import grouping, hierarchical, makespan, packing, pair_resplit, replication
>>> weight = torch.tensor([[90.0, 40, 60, 30, 20, 70, 15, 50]])
>>> shape = hierarchical.Shape(num_slots=12, num_groups=4, num_nodes=2, num_ranks=4)

Groups to nodes (``grouping``; by totals alone ``packing``). From here on a node is a row.

>>> experts = hierarchical.experts_by_node(weight, shape, grouping.groups_by_reach)
>>> experts.tolist()
[[0, 1, 6, 7], [2, 3, 4, 5]]
>>> loads = weight[0, experts]

Counts: whose replica is each of a node's 6 (``replication``; ``count_search`` tries others).

>>> replicas = replication.greedy_replicas(loads, 6)

Packing: replicas to ranks (``packing``).

>>> packed = replicas.gather(1, packing.lpt(replication.replica_loads(loads, replicas), 2))
>>> makespan.makespans(loads, packed, 2).tolist()
[100.0, 95.0]

Refinement: pairs of ranks split anew (``pair_resplit``; ``effort`` says how often).

>>> better = pair_resplit.resplit_pairs(loads, packed, 2)
>>> makespan.makespans(loads, better, 2).tolist()
[100.0, 90.0]

Maps, as engines read them (``hierarchical``, which runs all of this on all layers at once).

>>> phy2log, log2phy, logcnt = hierarchical.maps(experts.gather(1, better).view(1, 12), 8)
>>> phy2log.tolist(), logcnt.tolist()
([[0, 1, 6, 0, 7, 7, 4, 5, 5, 2, 2, 3]], [[2, 1, 2, 1, 1, 2, 1, 2]])

``policies`` composes the stages and reads the policies' names, ``drop_ins`` plugs them into
engines, ``migration`` and ``matching`` start from an old placement, ``published`` has the stages of
the four seed programs.
"""

from heuristics.drop_ins import RefinedEplbPolicy, rebalance_experts_sglang
from heuristics.policies import POLICIES, rebalance_experts

__all__ = ["POLICIES", "RefinedEplbPolicy", "rebalance_experts", "rebalance_experts_sglang"]
