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
# # Policies at full scale: quality against time
#
# 58 layers of 256 experts, 32 redundant ones, 32 GPUs: the size of DeepSeek-V3. No solver
# enumerates that, but a lower bound needs no solver, and against it we can plot what each policy
# buys for its time. Set `RECORDING` to see your own loads.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from eplb_opt import Instance, Topology
from eplb_opt.gap import measure_gap
from eplb_opt.io import read_loads
from eplb_opt.io.synthetic import generate
from heuristics import POLICIES

RECORDING = None
torch.set_num_threads(1)

if RECORDING:
    loads = read_loads(RECORDING).loads
else:
    loads = generate("deepseek-v3", num_layers=58, num_experts=256, tokens=10_000_000, seed=7)
instance = Instance(loads, Topology(num_physical_experts=288, num_ranks=32))
policies = [*POLICIES, "huntington-hill + snake + pair-resplit", "greedy + snake"]
report = measure_gap(instance, policies)

# %%
rows = {
    p.policy: {
        "mean gap %": 100 * p.gap_mean,
        "max gap %": 100 * p.gap_max,
        "ms": 1000 * p.runtime,
    }
    for p in report.policies
}
table = pd.DataFrame(rows).T.sort_values("ms")
table.round(3)

# %% [markdown]
# ## The frontier
#
# A policy is worth having if no other is both faster and better.

# %%
best, frontier = float("inf"), []
for name, row in table.iterrows():
    if row["mean gap %"] < best:
        best = row["mean gap %"]
        frontier.append(name)
print("on the frontier:", ", ".join(frontier))
assert table.loc["refined", "mean gap %"] < table.loc["deepseek", "mean gap %"]

figure, ax = plt.subplots(figsize=(7, 4))
for name, row in table.iterrows():
    ax.plot(row["ms"], row["mean gap %"], "o" if name in frontier else "x", color="tab:blue")
    ax.annotate(name, (row["ms"], row["mean gap %"]), fontsize=8, xytext=(5, 3),
                textcoords="offset points")  # fmt: skip
line = table.loc[frontier]
ax.step(line["ms"], line["mean gap %"], where="post", alpha=0.4)
ax.set(xscale="log", yscale="log", xlabel="milliseconds for all layers", ylabel="mean gap, %")
plt.show()

# %% [markdown]
# ## Fewer slots a rank make it harder
#
# The same experts on more GPUs: S falls from 9 to 3, and packing alone no longer finds room.

# %%
for slots, ranks in ((288, 32), (320, 64), (288, 72), (288, 96)):
    found = measure_gap(Instance(loads, Topology(slots, ranks)), ["deepseek", "refined"]).policies
    gaps = "  ".join(f"{p.policy} {p.gap_mean:.3%}" for p in found)
    print(f"{slots} slots on {ranks} ranks (S = {slots // ranks}): {gaps}")
    assert found[1].gap_mean <= found[0].gap_mean
