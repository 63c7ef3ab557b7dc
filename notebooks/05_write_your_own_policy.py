# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Write your own policy
#
# From an idea to a policy that is measured and checked. The idea: the baseline sorts replicas and
# puts each on the lightest GPU, one after another. Dealing them like cards, back and forth, needs
# no loop. Is it good enough?

# %%
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt

from eplb_opt import Instance, Topology
from eplb_opt.gap import measure_gap
from eplb_opt.io import read_loads
from eplb_opt.io.synthetic import generate

RECORDING = None
folder = Path(mkdtemp())

# %% [markdown]
# A policy is a function in a file. It gets the loads `[L, E]` and the machine, and returns the
# expert in each slot.

# %%
first = folder / "first.py"
first.write_text(
    """
import torch

def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    layers, experts = weight.shape
    counts = torch.ones(layers, experts, dtype=torch.int64)
    rows = torch.arange(layers)
    for _ in range(num_replicas - experts):  # split the largest replica
        counts[rows, (weight / counts).argmax(1)] += 1
    expert = torch.arange(experts).repeat(layers)
    replicas = torch.repeat_interleave(expert, counts.flatten()).view(layers, -1)
    share = (weight / counts).gather(1, replicas)
    order = replicas.gather(1, share.argsort(1, descending=True))
    dealt = order.view(layers, -1, num_gpus)  # one card each, turn by turn
    return dealt.transpose(1, 2).reshape(layers, num_replicas)
"""
)
if RECORDING:
    loads = read_loads(RECORDING).loads
else:
    loads = generate("deepseek-v3", num_layers=20, num_experts=128, tokens=10**6, seed=5)
instance = Instance(loads, Topology(num_physical_experts=144, num_ranks=16))


def compare(*policies: str | Path) -> dict[str, float]:
    report = measure_gap(instance, [str(policy) for policy in policies])
    for p in report.policies:
        figures = f"{p.gap_mean:8.3%}  {1000 * p.runtime:7.1f} ms" if p.layers else p.message
        print(f"{Path(p.policy).name:12} {p.status:8} {figures}")
    return {p.policy: p.gap_mean for p in report.policies}


gaps = compare(first, "deepseek")

# %% [markdown]
# Valid, but far worse: the first GPU gets the heaviest card of every turn. The fix is one line:
# every other turn goes backwards.

# %%
second = folder / "second.py"
second.write_text(
    first.read_text()
    .replace("dealt = order", "dealt = order.clone()")
    .replace("    return dealt", "    dealt[:, 1::2] = dealt[:, 1::2].flip(2)\n    return dealt")
)
gaps |= compare(second, "deepseek")
assert gaps[str(second)] < gaps[str(first)]

# %% [markdown]
# ## What the checks are for
#
# A policy that crashes, hangs, or loses an expert is named, and the others go on. Here is a bug
# that is easy to make: counts that ignore that every expert needs a slot.

# %%
broken = folder / "broken.py"
broken.write_text(first.read_text().replace("torch.ones(layers", "torch.zeros(layers"))
report = measure_gap(instance, [str(broken), "deepseek"], policy_timeout=20)
for policy in report.policies:
    print(Path(policy.policy).name, policy.status, policy.message)
assert [policy.status for policy in report.policies][1] == "ok"
assert report.policies[0].status != "ok"

# %% [markdown]
# ## Refine what you have
#
# The project's stages can be named and combined. Your dealing is its `snake`; with pairs of GPUs
# re-split it beats the baseline. That is how `refined` came about.

# %%
gaps |= compare("greedy + snake", "greedy + snake + pair-resplit", "refined", "deepseek")
assert gaps["greedy + snake + pair-resplit"] < gaps["deepseek"]

figure, ax = plt.subplots(figsize=(7, 2.5))
names = [Path(name).name for name in gaps]
ax.barh(names, [100 * gap for gap in gaps.values()])
ax.set(xscale="log", xlabel="mean gap to the lower bound, %")
plt.show()

# %% [markdown]
# Next: `eplb-opt gap LOADS --policy your_file.py` on recorded loads, and `docs/guide/your_policy.md` on
# how a program is run, limited and timed.
