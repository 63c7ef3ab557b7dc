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
# # The price of the hierarchical rule
#
# DeepSeek's models route in groups of experts, and keeping a group on one node saves traffic
# between nodes. The **hierarchical rule** enforces it: every node takes whole groups. Its price is
# balance: if one group is heavy, its node is heavy, and no placement can help. Is that price small?

# %%
import matplotlib.pyplot as plt
import numpy as np

from eplb_opt import Instance, Topology
from eplb_opt.gap import measure_frontier, measure_gap
from eplb_opt.io import read_loads
from eplb_opt.io.synthetic import generate
from eplb_opt.report import plot_frontier
from solvers.frontier import frontier as exact_frontier

RECORDING = None

if RECORDING:
    loads = read_loads(RECORDING).loads
else:
    loads = generate("deepseek-v3", num_layers=16, num_experts=256, tokens=5_000_000, seed=3)
machine = Topology(num_physical_experts=288, num_ranks=32, num_nodes=4, num_groups=8)

# %% [markdown]
# ## The same loads under both rules
#
# The lower bound over the mean rank load is what a rule costs at least.

# %%
reports = {
    rule: measure_gap(Instance(loads, machine, rule=rule), ["deepseek", "refined"])
    for rule in ("global", "hierarchical")
}
price = {}
for rule, report in reports.items():
    loaded = [r for r in report.reference if r.status != "no-load"]
    price[rule] = np.array([float(r.lower_bound / r.mean_load) - 1 for r in loaded])
    own = "  ".join(f"{p.policy} {p.gap_mean:.3%}" for p in report.policies)
    print(f"{rule:13} bound over the mean {price[rule].mean():7.3%}   gap to the bound: {own}")
assert price["hierarchical"].mean() >= price["global"].mean()

# %% [markdown]
# The policies differ by tenths of a percent; the rule costs tens of percents. Whoever tunes the
# policy and keeps the rule polishes the wrong end.
#
# ## Why: exact attribution
#
# `explain=True` splits the loss of each placement exactly, each term as a proven interval.

# %%
few = Instance(loads[:4], machine)
explained = measure_gap(few, ["deepseek"], explain=True, time_limit=0.2)
for term, interval in explained.attribution[0].mean.terms.items():
    print(f"{term:12} {float(interval.low):8.3%} .. {float(interval.high):.3%}")

# %% [markdown]
# ## More or fewer nodes
#
# With eight groups a node takes 8, 4, 2 or 1 of them. The fewer, the less they average out.

# %%
figure, ax = plt.subplots(figsize=(6, 3))
for nodes in (1, 2, 4, 8):
    topology = Topology(num_physical_experts=288, num_ranks=32, num_nodes=nodes, num_groups=8)
    references = measure_gap(Instance(loads, topology, rule="hierarchical"), []).reference
    loss = [100 * (float(r.lower_bound / r.mean_load) - 1) for r in references
            if r.status != "no-load"]  # fmt: skip
    ax.boxplot(loss, positions=[nodes], widths=0.5)
    print(f"{nodes} nodes: {np.mean(loss):.1f} % at least, {max(loss):.1f} % in the worst layer")
ax.set(xlabel="nodes", ylabel="price of the rule, %")
plt.show()

# %% [markdown]
# ## Between the two rules: groups at home, copies anywhere
#
# Under the rule `home` every expert has a replica at the home of its group, and further copies may
# go to any node. **Traffic** is the part of the tokens that they serve off home; it may be limited.
# Each point of the figure is a rule, and below it hangs a line down to its proven bound.

# %%
frontier = measure_frontier(Instance(loads[:4], machine), [0.02, 0.05], ["refined"])
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
plot_frontier(frontier, ax)
plt.show()
print(frontier)

# %%
hierarchical, *home, anywhere = (report.policies[0] for report in frontier.reports)
assert all(found.loss_mean <= hierarchical.loss_mean for found in home)
assert all(found.traffic_mean < anywhere.traffic_mean / 5 for found in home)

# %% [markdown]
# A few percent of the tokens buy nearly all of the balance. Of a layer small enough, the whole
# frontier is known: no placement has less traffic and no larger makespan than one of these points.

# %%
small = Topology(num_physical_experts=10, num_ranks=2, num_nodes=2, num_groups=2)
popular = [[60, 40, 30, 20, 14, 10, 8, 6]]  # the first group is on the first node
points = exact_frontier(Instance(popular, small, "home").layer(0))
assert all(point.proven for point in points)
refined = [
    measure_gap(Instance(popular, small, "home", traffic_limit=x.limit), ["refined"])
    for x in points
]
figure, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for name, marker, found in (
    ("proven", "o-", points),
    ("refined", "x", [report.policies[0].layers[0] for report in refined]),
):
    traffic = [100 * float(x.traffic) for x in found]
    makespan = [float(x.makespan) for x in found]
    ax.plot(traffic, makespan, marker, label=name)
    pairs = zip(makespan, traffic, strict=True)
    print(f"{name:8}", *(f"{tokens:.0f} at {part:.1f} %" for tokens, part in pairs), sep="  ")
ax.set(xlabel="traffic, %", ylabel="tokens on the fullest rank")
ax.legend()
plt.show()
