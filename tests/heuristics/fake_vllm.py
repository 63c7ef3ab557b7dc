"""A package ``vllm`` with the names that the plugin meets in vLLM 0.33.0, and nothing behind."""

FILES = {
    "plugins/__init__.py": '''
from importlib.metadata import entry_points

def load_general_plugins():
    """What a plugin raises ends the process."""
    for plugin in entry_points(group="vllm.general_plugins"):
        plugin.load()()
''',
    "distributed/eplb/policy/__init__.py": """
class DefaultEplbPolicy:
    pass

EPLB_POLICIES = {"default": DefaultEplbPolicy}
""",
    "distributed/eplb/eplb_state.py": """
from vllm.distributed.eplb.policy import EPLB_POLICIES

def rearrange(load_window, num_replicas, num_groups, num_nodes, num_gpus, physical_to_logical_map):
    return EPLB_POLICIES["default"].rebalance_experts(
        load_window, num_replicas, num_groups, num_nodes, num_gpus, physical_to_logical_map
    )
""",
}
