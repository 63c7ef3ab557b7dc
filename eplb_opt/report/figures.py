"""The figures of a report; each draws on ``ax`` or on a new one, and returns it.

``source`` is a :class:`GapReport`, a file that ``eplb-opt`` wrote, or a :class:`Summary`. Colours
are those of Okabe and Ito, which colour-blind people can tell apart; nothing rests on colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eplb_opt.gap import GapReport
from eplb_opt.problem.shown import printable
from eplb_opt.report.summary import Distribution, Summary, summarize

Source = GapReport | Summary | str | Path
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
HATCHES = ("", "//", "..", "xx", "\\\\")
FLOOR = 1e-5
"""Gaps in percent below this are drawn here, on a logarithmic axis."""
PALE = 0.35
"""How opaque a part of a bar is that is not proven."""
NEARLY = 0.8
"""Policies that fail now and then are compared with the others all the same."""
QUANTILES = {"whislo": 0.05, "q1": 0.25, "med": 0.5, "q3": 0.75, "whishi": 0.95}


def plot_gap(source: Source, ax: Any = None) -> Any:
    """Gaps by policy: box 25 to 75 %, whiskers 5 and 95 %, cross the largest."""
    gaps = {p.policy: p.gaps for p in summarize(source).policies.values()}
    return _plot_boxes(gaps, "gap to the proven bound, %", ax)


def plot_served_loss(source: Source, ax: Any = None) -> Any:
    """Served losses of layers by policy, like :func:`plot_gap`."""
    losses = {p.policy: p.losses for p in summarize(source).policies.values()}
    return _plot_boxes(losses, "served loss, % of the mean rank load", ax)


def _plot_boxes(found: Mapping[str, Distribution], xlabel: str, ax: Any) -> Any:
    shown = [(policy, values) for policy, values in found.items() if values.size]
    shown.sort(key=lambda pair: pair[1].mean or 0)
    ax = new_axes(ax, height=0.9 + 0.36 * max(1, len(shown)))
    boxes = [
        {name: max(FLOOR, 100 * values.quantile(q)) for name, q in QUANTILES.items()}
        | {"label": label(policy), "fliers": [max(FLOOR, 100 * values.largest)]}
        for policy, values in shown
    ]
    style = {"facecolor": "#CFE3F1", "edgecolor": COLOURS[0]}
    cross = {"marker": "x", "markeredgecolor": COLOURS[3]}
    ax.bxp(boxes, orientation="horizontal", patch_artist=True, boxprops=style, flierprops=cross,
           medianprops={"color": "black"})  # fmt: skip
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel=xlabel)
    ax.grid(axis="x", alpha=0.3)
    return ax


def plot_gap_against_time(source: Source, ax: Any = None) -> Any:
    """Mean gap against the median time of a call; filled: no other is both faster and better.

    Only policies that were run on as many instances as any: others are not comparable.
    """
    ax = new_axes(ax, height=4.0)
    policies = summarize(source).policies.values()
    most = max((len(p.runtimes) for p in policies), default=0)
    points = sorted(
        (p.runtime * 1000, max(FLOOR, 100 * p.gaps.mean), label(p.policy))
        for p in policies
        if p.runtime is not None and p.gaps.mean is not None and len(p.runtimes) >= NEARLY * most
    )
    best, front = np.inf, []
    for time, gap, name in points:
        on = gap < best
        best = min(best, gap)
        front += [(time, gap)] if on else []
        ax.plot(time, gap, "o", color=COLOURS[0], mfc=COLOURS[0] if on else "white")
        ax.annotate(name, (time, gap), fontsize=8, xytext=(6, 3), textcoords="offset points")
    if front:
        ax.step(*zip(*front, strict=True), where="post", color=COLOURS[0], alpha=0.4)
    ax.set(xscale="log", yscale="log", xlabel="milliseconds a call, median", ylabel="mean gap, %")
    ax.margins(x=0.25)
    ax.grid(alpha=0.3)
    return ax


def plot_rank_loads(source: Source, ax: Any = None) -> Any:
    """Rank loads over their mean, sorted within each layer, mean over layers; before and after."""
    summary = summarize(source)
    ax = new_axes(ax)
    series = [("experts in order", summary.before)]
    series += [(label(p.policy), p.rank_loads) for p in summary.policies.values()]
    for i, (name, loads) in enumerate((n, x) for n, x in series if x is not None):
        profile = -np.sort(-loads / loads.mean(1, keepdims=True), axis=1)
        style = ("--", "-", "-.", ":")[i % 4]
        ax.plot(1 + np.arange(profile.shape[1]), profile.mean(0), style,
                color=COLOURS[-1 if i == 0 else (i - 1) % 7], label=name)  # fmt: skip
    ax.set(xlabel="ranks, heaviest first", ylabel="load over the mean")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    return ax


def plot_heatmap(source: Source, policy: str | None = None, ax: Any = None) -> Any:
    """Load over the mean, layers x ranks; of the experts in order if ``policy`` is None.

    Raises:
        ValueError: there are no rank loads, or none of this policy.
    """
    summary = summarize(source)
    known = summary.policies.get(policy) if policy is not None else None
    loads = summary.before if policy is None else known.rank_loads if known else None
    if loads is None:
        raise ValueError(f"no rank loads of {policy or 'the experts in order'}")
    ax = new_axes(ax, height=3.6)
    ratio = loads / loads.mean(1, keepdims=True)
    top = max(1.1, float(np.quantile(ratio, 0.98)))
    image = ax.imshow(ratio, aspect="auto", cmap="cividis", vmin=min(0.9, ratio.min()), vmax=top,
                      interpolation="nearest")  # fmt: skip
    ax.set(xlabel="rank", ylabel="layer with load")
    ax.set_title(f"{label(policy) if policy else 'experts in order'}", fontsize=9)
    ax.figure.colorbar(image, ax=ax, label="load over the mean", extend="max")
    return ax


def plot_attribution(source: Source, ax: Any = None) -> Any:
    """Where the loss over the mean rank load comes from, mean over layers, in percent of it.

    Full colour: proven of this term. Pale: as much as it has with the best known placements in
    place of the optima; the truth may be with the terms beside it.
    """
    summary = summarize(source)
    ax = new_axes(ax, height=1.2 + 0.4 * max(1, len(summary.attribution)))
    names = [label(entry["policy"]) for entry in summary.attribution]
    left = np.zeros(len(names))
    terms = list(summary.attribution[0]["mean"]["terms"]) if names else []
    for i, term in enumerate(terms):
        parts = [entry["mean"]["terms"][term] for entry in summary.attribution]
        low, high, shown = (100 * np.array([p[k] for p in parts]) for k in ("low", "high", "shown"))
        proven = np.where(shown >= 0, np.maximum(low, 0), np.minimum(high, 0))
        style = {"color": COLOURS[i % 7], "hatch": HATCHES[i % 5], "edgecolor": "white"}
        ax.barh(names, proven, left=left, label=label(term), **style)
        ax.barh(names, shown - proven, left=left + proven, alpha=PALE, **style)
        left += shown
    ax.invert_yaxis()
    ax.set(xlabel="loss, % of the mean rank load")
    ax.legend(fontsize=8, ncols=max(1, len(terms)), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def plot_proofs(source: Source, ax: Any = None) -> Any:
    """Share of layers by what is proven of each policy: optimal, or within a bound."""
    summary = summarize(source)
    shown = [p for p in summary.policies.values() if p.gaps.size]
    ax = new_axes(ax, height=1.0 + 0.32 * max(1, len(shown)))
    names = [label(p.policy) for p in shown]
    optimal = np.array([100 * p.optimal / p.gaps.size for p in shown])
    near = np.array([100 * _within(p.gaps, 1e-3) for p in shown])
    near = np.maximum(near, optimal)
    ax.barh(names, optimal, color=COLOURS[2], label="proven optimal")
    ax.barh(names, near - optimal, left=optimal, color=COLOURS[5], hatch="//", edgecolor="white",
            label="proven within 0.1 %")  # fmt: skip
    ax.barh(names, 100 - near, left=near, color="#DDDDDD", hatch="..", edgecolor="white",
            label="further, or open")  # fmt: skip
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="layers, %")
    ax.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def _within(gaps: Any, limit: float) -> float:
    from eplb_opt.report.summary import LOWEST, STEPS

    place = int((np.log10(limit) - LOWEST) * STEPS)
    return float(gaps.counts[: place + 1].sum() / gaps.size)


def short(policy: str) -> str:
    """A policy's name without the folders of a file."""
    path, colon, function = policy.partition(":")
    name = Path(path).name + colon + function if path.endswith(".py") else policy
    return printable(name)


def label(text: str) -> str:
    """A name as matplotlib takes it: a dollar is no mathematics."""
    return short(text).replace("$", r"\$")


def new_axes(ax: Any, height: float = 3.2) -> Any:
    """``ax``, or the axes of a new figure."""
    if ax is not None:
        return ax
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "figures need the extra 'report': pip install 'eplb-opt[report]'"
        ) from None
    return Figure(figsize=(7.2, height), layout="constrained").subplots()
