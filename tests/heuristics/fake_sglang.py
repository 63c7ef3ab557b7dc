"""A package ``sglang`` with the names that plugins meet in SGLang 0.5.23, and nothing behind."""

FILES = {
    "srt/plugins/__init__.py": '''
from importlib.metadata import entry_points
from sglang.srt.plugins.hook_registry import HookRegistry

failed = []

def load_plugins():
    """Errors of plugins are kept, not raised."""
    for plugin in {p.name: p for p in entry_points(group="sglang.srt.plugins")}.values():
        try:
            plugin.load()()
        except Exception as error:
            failed.append(error)
    HookRegistry.apply_hooks()
''',
    "srt/plugins/hook_registry.py": '''
import enum, functools, pkgutil, sys

HookType = enum.Enum("HookType", "BEFORE AFTER AROUND REPLACE")

class HookRegistry:
    hooks = []

    @classmethod
    def register(cls, target, hook, hook_type=HookType.AFTER, *, source=None):
        if isinstance(hook, type) and hook_type is not HookType.REPLACE:
            raise TypeError(hook)
        cls.hooks.append((target, hook, hook_type))

    @classmethod
    def apply_hooks(cls):
        """In the defining module, and in all that imported the name from it."""
        for target, hook, hook_type in cls.hooks:
            module, name = target.rsplit(".", 1)
            original = getattr(pkgutil.resolve_name(module), name)
            new = functools.partial(hook, original) if hook_type is HookType.AROUND else hook
            for other in [m for m in sys.modules.values() if hasattr(m, "__dict__")]:
                for key, value in list(vars(other).items()):
                    if value is original:
                        setattr(other, key, new)
''',
    "srt/eplb/lplb_solver.py": """
SOLVERS = {}

class LPLBSolver:
    def __init__(self, phy2log, log2phy, num_gpus, ep_group=None,
                 logical_to_all_physical_map_num_valid=None):
        raise RuntimeError("only on CUDA")
""",
    "srt/eplb/expert_location_dispatch.py": """
from dataclasses import dataclass
from typing import Any

@dataclass
class ExpertLocationDispatchInfo:
    ep_dispatch_algorithm: str
    partial_logical_to_rank_dispatch_physical_map: Any
    partial_logical_to_all_physical_map: Any
    partial_logical_to_all_physical_map_num_valid: Any
    num_physical_experts: int
    rank_invariant: bool = False

def topk_ids_logical_to_physical(topk_ids, info, log2phy_prob=None):
    if info is None:
        return topk_ids
    if info.ep_dispatch_algorithm == "static":
        return info.partial_logical_to_rank_dispatch_physical_map[topk_ids]
    raise RuntimeError("only on CUDA")
""",
    "srt/eplb/eplb_algorithms/__init__.py": """
import enum

EplbAlgorithm = enum.Enum(
    "EplbAlgorithm",
    "deepseek deepseek_hierarchical deepseek_vec deepseek_vec_hierarchical elasticity_aware "
    "elasticity_aware_hierarchical",
)

def rebalance_experts(tokens_per_expert, num_physical_experts, num_local_physical_experts,
                      num_groups, num_nodes, algorithm):
    return "by SGLang"
""",
    "srt/eplb/expert_location.py": """
metadata = None

def get_global_expert_location_metadata():
    return metadata

def init_by_eplb(logical_count, num_physical_experts, ep_size, num_groups, num_nodes, algorithm):
    from sglang.srt.eplb import eplb_algorithms

    return eplb_algorithms.rebalance_experts(
        tokens_per_expert=logical_count,
        num_physical_experts=num_physical_experts,
        num_local_physical_experts=num_physical_experts // ep_size,
        num_groups=num_groups,
        num_nodes=num_nodes,
        algorithm=eplb_algorithms.EplbAlgorithm[algorithm],
    )
""",
    "srt/elastic_ep/elastic_ep.py": """
class ElasticEPStateManager:
    state = None

    @classmethod
    def instance(cls):
        return cls.state
""",
    "srt/moe_ep_setup.py": """
from sglang.srt.eplb.lplb_solver import SOLVERS, LPLBSolver

def init_lplb_solvers(phy2log, log2phy, num_valid, num_gpus, ep_group):
    for layer in range(len(phy2log)):
        SOLVERS[layer] = LPLBSolver(
            phy2log=phy2log[layer], log2phy=log2phy[layer], num_gpus=num_gpus, ep_group=ep_group,
            logical_to_all_physical_map_num_valid=num_valid[layer],
        )
""",
    "srt/topk.py": '''
from sglang.srt.eplb.expert_location_dispatch import topk_ids_logical_to_physical
from sglang.srt.eplb.lplb_solver import SOLVERS

def select_experts(topk_ids, info, layer):
    """A rank without tokens only takes part in the counting."""
    prob = SOLVERS[layer].solve(topk_ids) if info.ep_dispatch_algorithm == "lp" else None
    return topk_ids_logical_to_physical(topk_ids, info, prob) if len(topk_ids) else topk_ids
''',
}
