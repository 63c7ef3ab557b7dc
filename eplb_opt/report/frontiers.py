"""The frontier of balance and traffic: its figure, and what a page says about it.

``source`` is a :class:`Frontier`, its JSON document, or a file with it.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from eplb_opt import documents
from eplb_opt.gap.frontier import Frontier
from eplb_opt.report.figures import COLOURS, label, new_axes
from eplb_opt.report.summary import ReportError, document_of, machine_of

SCHEMA = "eplb-opt/frontier/1"
FrontierSource = Frontier | dict[str, Any] | str | Path
MARKERS = ("o", "s", "^", "D", "v")
LINEAR = 10.0
"""Percent of traffic up to which the axis is linear; beyond it is logarithmic."""
TICKS = (0, 2, 5, 10, 20, 50, 100)


def frontier_document(source: Any) -> dict[str, Any] | None:
    """The JSON document of a frontier; None if the source is something else."""
    return document_of(source, Frontier, documents.frontier, SCHEMA)


def rule_of(report: dict[str, Any]) -> str:
    """The rule of a report with its limit of traffic: ``home 0.05``."""
    limit = report["instance"]["traffic_limit"]
    return str(report["instance"]["rule"]) + (f" {limit:g}" if limit < 1 else "")


def least_loss(report: dict[str, Any]) -> float | None:
    """What the rule itself costs at least: proven bound over mean rank load, less 1, mean over
    layers with load.
    """
    known = [r["lower_bound"] / r["mean_load"] - 1 for r in report["reference"] if r["mean_load"]]
    return fmean(known) if known else None


def plot_frontier(source: FrontierSource, ax: Any = None) -> Any:
    """Loss over the mean rank load against traffic, means over layers, one point a rule and policy;
    rules that do not change what a policy does share a point. A line joins the points of the rule
    ``home``, where other limits lie between; hierarchical and global are hollow points beside it.

    Below each point hangs a line down to the proven bound of its rule: what the rule itself costs
    lies on that line.

    Raises:
        ReportError: the source is no frontier.
    """
    document = frontier_document(source)
    if document is None:
        raise ReportError(f"{source}: no frontier: give what `eplb-opt gap --traffic` wrote")
    ax = new_axes(ax, height=4.0)
    for i, policy in enumerate(document["reports"][0]["policies"]):
        points = _points(document, policy["policy"])
        colour, marker = COLOURS[i % 7], MARKERS[i % len(MARKERS)]
        at, loss, bound = ([p[k] for p in points.values()] for k in ("traffic", "loss", "bound"))
        ax.vlines(at, bound, loss, color=colour, alpha=0.5)
        ax.plot(at, bound, "_", color=colour, markersize=9)
        ax.plot(at, loss, marker, color=colour, mfc="white", markersize=5, clip_on=False)
        home = [(p["traffic"], p["loss"]) for rules, p in points.items() if "home" in rules]
        line = list(zip(*home, strict=True)) or [(), ()]
        ax.plot(*line, marker + "-", color=colour, label=label(policy["policy"]), markersize=5)
        for rules, point in points.items() if i == 0 else ():
            ax.annotate(label(rules), (point["traffic"], point["loss"]), xytext=(3, 4),
                        textcoords="offset points", fontsize=8, rotation=30)  # fmt: skip
    ax.plot([], [], "_", color="black", markersize=9, label="proven bound of the rule")
    ax.set_xscale("symlog", linthresh=LINEAR, linscale=2)
    ax.set_xticks(TICKS, [str(tick) for tick in TICKS])
    ax.set(xlim=(-0.5, 130), ylabel="loss, % of the mean rank load")  # fmt: skip
    ax.set_xlabel(f"traffic: tokens served off home, % (linear to {LINEAR:g}, then logarithmic)")
    ax.set_ylim(0, 1.2 * ax.get_ylim()[1])
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    return ax


def _points(document: dict[str, Any], name: str) -> dict[str, dict[str, float]]:
    """Of a policy, by rule, its traffic, loss, and the bound in percent, where its traffic is
    known; rules under which it does the same are named together, with the bound of the tightest.
    """
    found: list[tuple[str, dict[str, float]]] = []
    for report in document["reports"]:
        row = next((row for row in report["policies"] if row["policy"] == name), None)
        if row is None:  # interrupted before it
            continue
        figures = {"traffic": row["traffic"], "loss": row["loss_mean"], "bound": least_loss(report)}
        point = {key: 100 * x for key, x in figures.items() if x is not None}
        if len(point) < len(figures):
            continue
        if found and all(found[-1][1][key] == point[key] for key in ("traffic", "loss")):
            found[-1] = f"{found[-1][0]}, {rule_of(report)}", found[-1][1]
        else:
            found.append((rule_of(report), point))
    return dict(found)


def describe_frontier(document: dict[str, Any]) -> dict[str, Any]:
    """What the page says in words and tables."""
    instance = document["reports"][0]["instance"]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    rows = [
        (rule_of(report), least_loss(report), policy)
        for report in document["reports"]
        for policy in report["policies"]
    ]
    return {
        "title": f"{instance['source']}: {machine_of(instance)}",
        "rows": rows,
        "failures": [(rule, p) for rule, _, p in rows if p["status"] != "ok"],
        "interrupted": document["interrupted"],
        "last": rule_of(document["reports"][-1]),
        "loaded": sum(r["status"] != "no-load" for r in document["reports"][0]["reference"]),
        "reproduce": [document.get("command") or "eplb_opt.gap.measure_frontier", versions],
    }
