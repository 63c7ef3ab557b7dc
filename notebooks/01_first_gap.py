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
# # From loads to a proven gap
#
# A Mixture-of-Experts layer sends each token to a few of its experts. Some experts are popular, so
# the GPUs that hold them work longer, and all others wait. Serving engines answer by
# **replicating** popular experts and **packing** the replicas on GPUs. How good is such a
# placement? This notebook takes loads, places them with the field's baseline, and *proves* how
# much better one could do.
#
# To see your own model: set `RECORDING` to a file (json, npy, npz, csv, pt) and adapt the machine.

# %%
import matplotlib.pyplot as plt
import numpy as np

from eplb_opt import Instance, Topology
from eplb_opt.gap import measure_gap
from eplb_opt.io import read_loads
from eplb_opt.io.synthetic import generate
from solvers import solve

RECORDING = None

if RECORDING:
    loads = read_loads(RECORDING).loads
else:
    loads = generate("deepseek-v3", num_layers=12, num_experts=256, tokens=2_000_000, seed=1)
machine = Topology(num_physical_experts=loads.shape[-1] + 32, num_ranks=32)
instance = Instance(loads, machine)
print(instance.num_layers, "layers,", instance.num_logical_experts, "experts")

# %% [markdown]
# ## How uneven is it?
#
# If every expert simply sat on one GPU, in order, the slowest GPU would carry this much more than
# the average one:

# %%
layers = [layer for layer in range(instance.num_layers) if instance.loads[layer].sum() > 0]
per_rank = np.array_split(np.asarray(instance.loads, dtype=float)[layers], 32, axis=1)
in_order = np.stack([part.sum(1) for part in per_rank], 1)
excess = in_order.max(1) / in_order.mean(1) - 1
print(f"experts in order: {excess.mean():.0%} over the mean rank load, at worst {excess.max():.0%}")

# %% [markdown]
# ## The baseline and ours, against a bound
#
# `measure_gap` places the loads with each policy and computes, for each layer, a **lower bound**:
# a number that no placement can beat. The gap is how far a policy is above it.

# %%
report = measure_gap(instance, ["deepseek", "refined"])
for policy in report.policies:
    print(
        f"{policy.policy:10} mean gap {policy.gap_mean:.4%}, at worst {policy.gap_max:.4%}, "
        f"{policy.runtime * 1000:.1f} ms for all layers"
    )
assert report.policies[1].gap_mean < report.policies[0].gap_mean

# %%
figure, ax = plt.subplots(figsize=(7, 3))
for policy, marker in zip(report.policies, "os", strict=True):
    x = [layer.layer for layer in policy.layers]
    ax.plot(x, [100 * layer.gap for layer in policy.layers], marker, label=policy.policy)
ax.set(xlabel="layer", ylabel="gap to the lower bound, %", yscale="log")
ax.legend()
plt.show()

# %% [markdown]
# ## Is the bound itself good?
#
# A gap is only as good as its bound. On a small layer we can close it completely: this is the
# example that FlashLB published, 8 experts on 8 GPUs with two slots each. The baseline reaches 232.

# %%
example = Instance([[600, 560, 120, 120, 20, 10, 10, 10]], Topology(16, 8))
best = solve(example.layer(0))
baseline = measure_gap(example, ["deepseek"]).policies[0].layers[0]
print("baseline", baseline.makespan, "| optimum", best.objective, "| proven:", best.status)
print("slots of the optimum:", best.placement)
assert best.objective == best.lower_bound

# %% [markdown]
# `best.objective` is a fraction, not a float: 590/3. The proof is that the lower bound is the same
# number. From here: `02` asks what joint optimization gains, `04` what the hierarchical rule costs.
