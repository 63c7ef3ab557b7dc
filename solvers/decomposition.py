"""The hierarchical rule: nodes are global problems of their own once the groups are dealt out.

The makespan is the worst node's, so the best partition of the groups is a bottleneck partition,
and only nodes that can decide it need to be solved
(:func:`eplb_opt.bounds.partitions.lazy_bottleneck`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from eplb_opt.bounds import Bound, global_bound, lower_bound
from eplb_opt.bounds.partitions import (
    Block,
    all_blocks,
    bottleneck_partition,
    can_enumerate,
    lazy_bottleneck,
)
from eplb_opt.problem.instance import Layer
from eplb_opt.problem.result import Result, exact_text
from solvers.formulations import counts
from solvers.formulations.groups import blocks_of, node_of_group, solve_groups
from solvers.options import Clock, Options

NodeSolver = Callable[[Layer, Options], Result]
CountedSolver = Callable[[Layer, Sequence[int], Options], Result]


def solve_counts(
    layer: Layer,
    nodes: Sequence[int],
    least: Sequence[int] | None = None,
    most: Sequence[int] | None = None,
) -> Result:
    """Counts that minimize the heaviest replica when group k is on node ``nodes[k]``; optimal.

    Each node on its own. ``least`` and ``most`` [E] limit the counts.
    """
    blocks = blocks_of(nodes)
    results = []
    for block in blocks:
        inside = [e for k in block for e in layer.groups[k]]
        limits = [None if x is None else [x[e] for e in inside] for x in (least, most)]
        results.append(counts.solve_counts(layer.node_problem(block), *limits))
    return _combined(layer, blocks, results, max(result.lower_bound for result in results))


def solve_packing(
    layer: Layer,
    given: Sequence[int],
    nodes: Sequence[int],
    solve_node: CountedSolver,
    options: Options,
) -> Result:
    """Packing inside every node when counts [E] and node of each group [K] are given."""
    clock = Clock(options)
    blocks = blocks_of(nodes)
    results: list[Result] = []
    for block in blocks:
        inside = [given[e] for k in block for e in layer.groups[k]]
        results.append(solve_node(layer.node_problem(block), inside, _left(clock, results)))
    bound = max(result.lower_bound for result in results)
    return replace(_combined(layer, blocks, results, bound), runtime=clock.elapsed())


def solve_joint(layer: Layer, solve_node: NodeSolver, options: Options) -> Result:
    """Groups, counts and packing together: optimal if every node that decides is solved.

    A node needs to be solved only as well as the worst node of the best partition: what is proven
    of that one is the target of the others.
    """
    clock, topology = Clock(options), layer.topology
    solved: dict[Block, Result] = {}
    bound = lower_bound(layer)
    cost = _block_bounds(layer)

    def solve_block(block: Block) -> Fraction:
        target = max(cost[other] for other in bottleneck_partition(cost, topology.num_groups))
        left = replace(_left(clock, solved.values(), 1 / topology.num_nodes), target=target)
        solved[block] = solve_node(layer.node_problem(block), left)
        return solved[block].lower_bound

    if can_enumerate(topology.num_groups, topology.num_nodes):
        value, _ = lazy_bottleneck(cost, solve_block, topology.num_groups)
        found = {
            block: result.objective
            for block, result in solved.items()
            if result.objective is not None
        }
        blocks = bottleneck_partition(found, topology.num_groups)
    else:
        value, blocks = bound.value, list(cost)
        for block in blocks:
            solve_block(block)
    result = _combined(layer, blocks, [solved[block] for block in blocks], max(value, bound.value))
    source = bound.source if bound.value >= value else f"groups:{result.bound_source}"
    limit = _limit(solved.values()) if result.gap else None
    return replace(
        result,
        bound_source=source,
        limit=limit,
        runtime=clock.elapsed(),
        certificate=_evidence(value, bound, solved),
    )


def _block_bounds(layer: Layer) -> dict[Block, Fraction]:
    """Closed-form bounds of all blocks, or of one good partition where there are too many."""
    groups, nodes = layer.topology.num_groups, layer.topology.num_nodes
    if can_enumerate(groups, nodes):
        blocks = all_blocks(groups, nodes)
    else:
        blocks = blocks_of(solve_groups(layer).node_of_group or ())
    return {block: global_bound(layer.node_problem(block)).value for block in blocks}


def _evidence(value: Fraction, bound: Bound, solved: dict[Block, Result]) -> dict[str, Any]:
    """What :func:`eplb_opt.certificate` needs to check that no partition beats ``value``."""
    if bound.value >= value:
        return {"kind": "closed-form"}
    blocks = [
        {
            "groups": list(block),
            "bound": exact_text(result.lower_bound),
            "evidence": result.certificate or {"kind": "trusted", "solver": result.backend},
        }
        for block, result in solved.items()
    ]
    return {"kind": "groups", "blocks": blocks}


def _combined(
    layer: Layer, blocks: Sequence[Block], results: Sequence[Result], bound: Fraction
) -> Result:
    """The result for the whole layer from those of its nodes."""
    experts = [[e for k in block for e in layer.groups[k]] for block in blocks]
    pairs = list(zip(experts, results, strict=True))
    counts = {
        e: c for inside, result in pairs for e, c in zip(inside, result.counts or (), strict=True)
    }
    placed = all(result.placement is not None for result in results)
    worst = max(results, key=lambda result: result.lower_bound)
    return Result(
        stage=worst.stage,
        backend=worst.backend,
        lower_bound=bound,
        objective=max(result.objective for result in results if result.objective is not None),
        placement=tuple(inside[i] for inside, result in pairs for i in result.placement or ())
        if placed
        else None,
        counts=tuple(counts[e] for e in sorted(counts)),
        node_of_group=node_of_group(blocks),
        bound_source=worst.bound_source,
        limit=_limit(results),
    )


def _limit(results: Iterable[Result]) -> str | None:
    limits = {result.limit for result in results}
    return next((name for name in ("interrupt", "time", "tolerance") if name in limits), None)


def _left(clock: Clock, results: Iterable[Result], share: float = 1.0) -> Options:
    """A share of the time left; none after an interrupt: every node still gets a placement."""
    left = clock.remaining(share)
    return replace(left, time_limit=0.0) if _limit(results) == "interrupt" else left
