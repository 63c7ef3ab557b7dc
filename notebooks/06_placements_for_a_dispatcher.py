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
# # Placements for a dispatcher: from 21 % to 1 %
#
# Ranks wait for each other at every step. On recorded decode steps of gpt-oss-20b (64 tokens, 8
# GPUs, 40 slots) that costs 21 % with the placement of the engines. A dispatcher that looks at each
# step brings it to 7 %; a placement that was made for the dispatcher, with the same memory, to
# below 1 %. Here the same on steps that are drawn: set `RECORDING` to a trace `[T, L, E]` of whole
# tokens to see your own.

# %%
import matplotlib.pyplot as plt
import torch

from eplb_opt.io import read_loads
from heuristics import rebalance_experts
from heuristics.dispatch import shares
from heuristics.dispatch.slots import even_shares, expert_loads, rank_loads
from heuristics.steps import draw_steps

RECORDING = None
RANKS, SLOTS, TOKENS, TOP_K = 8, 40, 64, 4
torch.set_num_threads(1)
popularity = torch.randn(3, 32, generator=torch.Generator().manual_seed(6)).mul(0.6).exp()


def draw(tokens, steps, spread, seed=0):
    """[T, L, E]: at each step the popularity times exp(spread z), then chance."""
    sizes = {"steps": steps, "tokens": tokens * TOP_K, "per_token": TOP_K}
    return draw_steps(popularity, **sizes, spread=spread, seed=seed)


if RECORDING:
    trace = torch.from_numpy(read_loads(RECORDING).loads)
else:
    trace = draw(TOKENS, steps=400, spread=0.15)
seen, served = trace.tensor_split(2)  # placed on the first half of the steps, served on the second


def place(policy, steps=seen):
    return rebalance_experts(steps, SLOTS, 1, 1, RANKS, policy=policy)[0]


def makespans(loads, phy2log, dispatch):
    """Of each step and layer over the mean rank load, [T, L]; `even` or `optimal` dispatch."""
    even = even_shares(phy2log, loads.shape[-1])
    part = even if dispatch == "even" else shares(loads, phy2log, RANKS)
    on_rank = rank_loads(expert_loads(loads, phy2log) * part, RANKS)
    return on_rank.amax(-1) / on_rank.mean(-1)


def served_loss(loads, phy2log, dispatch):
    """What ranks wait, in % of the mean rank load; steps of equally many tokens."""
    return 100 * float(makespans(loads, phy2log, dispatch).mean() - 1)


# %% [markdown]
# ## Four ways to serve the same steps
#
# `deepseek` balances the sum of all loads. The ring gives every GPU the heaviest expert of the GPU
# before, so that load can be passed on along it. `dispatch-aware` chooses the placement whose steps
# are best under the dispatcher.

# %%
WAYS = {
    "deepseek, even": ("deepseek", "even"),
    "deepseek, dispatcher": ("deepseek", "optimal"),
    "ring, dispatcher": ("lplb-graph:ring", "optimal"),
    "dispatch-aware, dispatcher": ("dispatch-aware", "optimal"),
}
placements = {policy: place(policy) for policy, _ in WAYS.values()}
losses = {
    way: {name: served_loss(steps, placements[policy], dispatch)
          for name, steps in (("seen", seen), ("served", served))}
    for way, (policy, dispatch) in WAYS.items()
}  # fmt: skip
for way, loss in losses.items():
    print(f"{way:27} {loss['served']:6.2f} % served  {loss['seen']:6.2f} % on the steps seen")
best_seen = min(losses[way]["seen"] for way in WAYS)
assert losses["dispatch-aware, dispatcher"]["seen"] <= best_seen + 1e-3

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), width_ratios=[2, 3])
colors = ["tab:red", "tab:orange", "tab:green", "tab:blue"]
bars = left.barh(list(WAYS), [loss["served"] for loss in losses.values()], color=colors)
left.bar_label(bars, fmt="%.1f", padding=3)
left.invert_yaxis()
left.margins(x=0.15)
left.set(xlabel="served loss, %")
for color, (policy, dispatch) in zip(colors, WAYS.values(), strict=True):
    right.plot(makespans(served, placements[policy], dispatch)[:50, 0], color=color, linewidth=1)
right.set(xlabel="step served, one layer", ylabel="makespan / mean rank load")
figure.tight_layout()
plt.show()

# %% [markdown]
# Made for the dispatcher, these placements need it. Where tokens are shared evenly nearly all of
# the gain is gone, and a ring is worse than `deepseek`.

# %%
for policy, phy2log in placements.items():
    print(f"{policy:16} even dispatch {served_loss(served, phy2log, 'even'):6.2f} %")

# %% [markdown]
# ## By size of a step
#
# Popularity that never changes, at the left: all that is lost is chance, which tokens happen to
# fall into one step. It shrinks with the number of tokens, and no placement can foresee it: only a
# dispatcher mends it, if the placement lets it. At the right popularity varies from step to step,
# by a factor of about exp(0.15). That does not shrink; it is what large steps still lose.

# %%
SIZES = (16, 64, 256, 1024, 4096)
figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
for ax, spread in zip(axes, (0.0, 0.15), strict=True):
    by_size = {way: [] for way in WAYS}
    for tokens in SIZES:
        before, after = (draw(tokens, steps, spread, seed) for steps, seed in ((128, 1), (64, 2)))
        placed = {policy: place(policy, before) for policy in placements}
        for way, (policy, dispatch) in WAYS.items():
            by_size[way].append(served_loss(after, placed[policy], dispatch))
    print(f"popularity varies by {spread:g}")
    for color, (way, loss) in zip(colors, by_size.items(), strict=True):
        cells = "  ".join(f"{tokens:,}: {x:5.2f} %" for tokens, x in zip(SIZES, loss, strict=True))
        print(f"  {way:27} {cells}")
        ax.plot(SIZES, loss, "o-", label=way, color=color, markersize=4)
    ax.set(xscale="log", xlabel="tokens a step", title=f"popularity varies by {spread:g}")
    ax.set_xticks(SIZES, [f"{tokens:,}" for tokens in SIZES])
    ax.minorticks_off()
axes[0].set_yscale("symlog", linthresh=1)
axes[0].set_yticks([0, 1, 3, 10, 30], ["0", "1", "3", "10", "30"])
axes[0].set(ylabel="served loss, %", ylim=(0, 60))
axes[0].legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.05))
figure.tight_layout()
plt.show()

# %% [markdown]
# So every such figure has to be told with its tokens a step. The tables of recorded steps are in
# `docs/results/dispatch_aware.md`; from a trace to a file that SGLang starts from:
# `docs/guide/dispatch_aware.md`.
