"""Figures of a replay over time; each draws on ``ax`` or on a new one, and returns it.

``source`` is a :class:`ReplayReport`, its JSON document, or a file with it.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from eplb_opt import documents
from eplb_opt.report.figures import COLOURS, label, new_axes
from eplb_opt.report.summary import ReportError, document_of, machine_of
from eplb_opt.serving.replay import ReplayReport

SCHEMA = "eplb-opt/replay/1"
ReplaySource = ReplayReport | dict[str, Any] | str | Path
STYLES = ("-", "--", "-.", ":")


def replay_document(source: Any) -> dict[str, Any] | None:
    """The JSON document of a replay; None if the source is something else."""
    return document_of(source, ReplayReport, documents.replay, SCHEMA)


def _document(source: ReplaySource) -> dict[str, Any]:
    document = replay_document(source)
    if document is None:
        raise ReportError(f"{source}: no replay: give what `eplb-opt replay --json` wrote")
    return document


def mean_of(policy: dict[str, Any], term: str) -> float | None:
    """A term of the intervals that an answer began, weighted by their steps."""
    known = [
        (i[term], i["stop"] - i["start"])
        for i in policy["intervals"]
        if i["seconds"] is not None and i[term] is not None
    ]
    total = sum(steps for _, steps in known)
    return sum(value * steps for value, steps in known) / total if total else None


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """What the page says in words and tables."""
    instance, settings = document["instance"], document["settings"]
    mode = "asynchronous" if settings["use_async"] else "synchronous"
    names = " ".join(f"--policy {quote(p['policy'])}" for p in document["policies"])
    limit = instance.get("traffic_limit", 1.0)
    flags = f" --traffic {limit!r}" if limit < 1 else ""
    flags += " --async" if settings["use_async"] else ""
    flags += "" if settings["attribute_late"] else " --attribute early"
    flags += "".join(f" --scale {s}:{ranks}" for s, ranks in document["ranks_from"].items())
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    return {
        "title": f"{instance['source']}: {machine_of(instance)}",
        "settings": f"{instance['num_steps']} steps, {instance['num_layers']} layers, "
        f"{instance['rule']} rule; interval {settings['step_interval']}, window "
        f"{settings['window_size']}, {mode}",
        "interrupted": document["interrupted"],
        "off_home": any(p.get("traffic") is not None for p in document["policies"]),
        "cost": document["tokens_per_byte"] is not None,
        "policies": sorted(document["policies"], key=lambda p: (p["loss"] is None, p["loss"])),
        "mean_of": mean_of,
        "failures": [
            (p["policy"], i["start"] - 1, i["message"])
            for p in document["policies"]
            for i in p["intervals"]
            if i["message"]
        ],
        "reproduce": [
            f"eplb-opt replay {quote(instance['source'])} "
            f"--physical {instance['num_physical_experts']} "
            f"--gpus {instance['num_ranks']} --nodes {instance['num_nodes']} "
            f"--groups {instance['num_groups']} --rule {instance['rule']} "
            f"--interval {settings['step_interval']} --window {settings['window_size']}"
            f"{flags} {names}",
            versions,
        ],
    }


def plot_balancedness(source: ReplaySource, ax: Any = None) -> Any:
    """Mean rank load over fullest rank at each step, by policy."""
    document = _document(source)
    ax = new_axes(ax)
    for i, policy in enumerate(document["policies"]):
        values = np.array(policy["steps"]["balancedness"])
        values = np.where(values > 0, values, np.nan)  # dummy passes
        ax.plot(values, STYLES[i % 4], color=COLOURS[i % 7], label=label(policy["policy"]), lw=1.2)
    for interval in document["policies"][0]["intervals"][1:] if document["policies"] else []:
        ax.axvline(interval["start"] - 0.5, color="#BBBBBB", lw=0.6, zorder=0)
    ax.set(xlabel="step", ylabel="mean load over fullest rank")
    ax.legend(fontsize=8)
    return ax


def plot_transfers(source: ReplaySource, ax: Any = None) -> Any:
    """Experts received from other ranks until each step, in GB, by policy."""
    document = _document(source)
    ax = new_axes(ax)
    for i, policy in enumerate(document["policies"]):
        total = np.cumsum(policy["steps"]["bytes"]) / 1e9
        ax.plot(total, STYLES[i % 4], color=COLOURS[i % 7], label=label(policy["policy"]))
    ax.set(xlabel="step", ylabel="GB received")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    return ax


def plot_tradeoff(source: ReplaySource, ax: Any = None) -> Any:
    """Loss of the whole trace against what was moved, one point a policy."""
    document = _document(source)
    ax = new_axes(ax)
    points = sorted(
        (policy["bytes"] / 1e9, 100 * policy["loss"], label(policy["policy"]))
        for policy in document["policies"]
        if policy["loss"] is not None
    )
    for i, (size, loss, name) in enumerate(points):
        ax.plot(size, loss, "o", color=COLOURS[0])
        away = (6, 4 if i % 2 else -11)  # neighbours may lie on each other
        ax.annotate(name, (size, loss), fontsize=8, xytext=away, textcoords="offset points")
    ax.set(xlabel="GB received", ylabel="loss, % of the mean rank load")
    ax.margins(x=0.25, y=0.2)
    ax.grid(alpha=0.3)
    return ax


def plot_intervals(source: ReplaySource, policy: str | None = None, ax: Any = None) -> Any:
    """Losses from one rearrangement to the next, of one policy; None is the first.

    Raises:
        ReportError: it was not replayed.
    """
    document = _document(source)
    found = [p for p in document["policies"] if policy in (None, p["policy"])]
    if not found:
        raise ReportError(f"no replay of {policy!r}")
    ax = new_axes(ax)
    intervals = [i for i in found[0]["intervals"] if i["served"] is not None]
    at = [(i["start"] + i["stop"] - 1) / 2 for i in intervals]

    def values(term: str) -> Any:
        return [np.nan if i[term] is None else 100 * i[term] for i in intervals]

    ax.fill_between(at, values("hindsight_low"), values("hindsight_high"), color="#DDDDDD",
                    label="best constant placement lies here")  # fmt: skip
    ax.plot(at, values("without"), "s:", color=COLOURS[3], label="not moved", ms=4)
    ax.plot(at, values("served"), "o-", color=COLOURS[0], label="served", ms=4)
    ax.plot(at, values("on_window"), "^--", color=COLOURS[2], label="on the window", ms=4)
    ax.set(xlabel="step", ylabel="loss, % of the mean rank load")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    return ax
