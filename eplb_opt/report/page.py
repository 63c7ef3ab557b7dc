"""One self-contained page of HTML."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from eplb_opt.report import figures, replays
from eplb_opt.report.figures import Source, short
from eplb_opt.report.replays import describe, replay_document
from eplb_opt.report.summary import Summary, summarize
from eplb_opt.serving.replay import ReplayReport

MOST_HEATMAPS = 2


def write_page(source: Source | ReplayReport, target: str | Path) -> int:
    """Write the report, whole or not at all; how many bytes it has.

    Raises:
        ImportError: matplotlib or jinja2 is missing (extra ``report``).
        ReportError: the source is a file that can't be reported.
        OSError: a file can't be read or written.
    """
    from eplb_opt.io.atomic import replace_file

    # A file's name may hold what UTF-8 cannot; such a page is better than none.
    content = page(source).encode(errors="backslashreplace")
    replace_file(Path(target), content)
    return len(content)


def page(source: Source | ReplayReport) -> str:
    """The HTML of a report."""
    environment = _environment()
    document = replay_document(source)
    if document is not None:
        words = {"sections": over_time(document)} | describe(document)
        return str(environment.get_template("replay.html.j2").render(words))
    summary = summarize(source)  # type: ignore[arg-type]
    words = {"summary": summary, "sections": sections(summary), "ranked": ranked(summary)}
    return str(environment.get_template("page.html.j2").render(words))


def _environment() -> Any:
    try:
        import jinja2
        import matplotlib as mpl
    except ImportError:
        raise ImportError(
            "reports need the extra 'report': pip install 'eplb-opt[report]'"
        ) from None
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "eplb-opt", "font.size": 9})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eplb_opt.report", "."), autoescape=True, trim_blocks=True
    )
    environment.filters |= {"percent": percent, "short": short}
    return environment


def over_time(document: dict[str, Any]) -> list[dict[str, str]]:
    """The sections about a replay."""
    found = [
        _section(
            "Balance over time",
            "Mean rank load over fullest rank, all layers of a step together. Grey lines: "
            "rearrangements.",
            replays.plot_balancedness,
            document,
        ),
        _section(
            "What is moved",
            "Experts received from other ranks until each step, all layers.",
            replays.plot_received,
            document,
        ),
        _section(
            "Loss against moving",
            "Each policy on the whole trace. What is left and below is better on both.",
            replays.plot_tradeoff,
            document,
        ),
    ]
    return found + [
        _section(
            f"Placement by placement: {short(entry['policy'])}",
            "Loss of the steps that each placement served, what the placement before would have "
            "lost on them, and where the best constant placement lies that knows them.",
            partial(replays.plot_intervals, policy=entry["policy"]),
            document,
        )
        for entry in document["policies"]
    ]


def ranked(summary: Summary) -> list[Any]:
    """The policies, smallest mean gap first, those without gaps last."""
    return sorted(
        summary.policies.values(), key=lambda p: (p.gaps.mean is None, p.gaps.mean or 0.0)
    )


def percent(ratio: float | None) -> str:
    """A ratio for a table."""
    return "–" if ratio is None else f"{100 * ratio:.4f}" if ratio < 0.1 else f"{100 * ratio:.2f}"


def sections(summary: Summary) -> list[dict[str, str]]:
    """Heading, explanation and figure of each section that has data; else a line that says so."""
    some = any(p.gaps.size for p in summary.policies.values())
    loads = [p.policy for p in summary.policies.values() if p.rank_loads is not None]
    found = [
        _section(
            "Gap by policy",
            "Gap of each layer to its proven lower bound. Box: middle half of the layers; line: "
            "median; whiskers: 5 and 95 %; cross: the worst layer.",
            figures.plot_gap if some else None,
            summary,
        ),
        _section(
            "Gap against time",
            "Filled points: no other policy is both faster and better. Time is the median of calls "
            "for all layers of an instance, the median over instances. Left out: what was not run "
            "on all instances.",
            figures.plot_pareto if some else None,
            summary,
        ),
        _section(
            "What is proven",
            "Where a placement reaches its lower bound it is optimal. The rest is within its gap, "
            "whose bound may be too low.",
            figures.plot_certified if some else None,
            summary,
        ),
        _section(
            "Where the loss comes from",
            "The loss over the mean rank load, split exactly: what no placement avoids "
            "(granularity), the price of the rule, and the policy's own mistakes in groups, "
            "counts and packing.",
            figures.plot_attribution if summary.attribution else None,
            summary,
            "No data: it comes with <code>eplb-opt gap --explain --json</code>.",
        ),
        _section(
            "Rank loads, before and after",
            "Load of each rank over the mean, heaviest first, mean over layers.",
            figures.plot_rank_loads if loads else None,
            summary,
            "No data: it comes with <code>eplb-opt gap --json</code>, not with a sweep.",
        ),
    ]
    maps = [None, *loads[-(MOST_HEATMAPS - 1) :]] if loads and summary.before is not None else []
    found += [
        _section(
            f"Layers and ranks: {short(policy) if policy else 'experts in order'}",
            "A bright cell is a rank that others wait for.",
            partial(figures.plot_heatmap, policy=policy),
            summary,
        )
        for policy in maps
    ]
    return found


def _section(
    heading: str,
    text: str,
    plot: Callable[..., Any] | None,
    source: Any,
    missing: str = "No data.",
) -> dict[str, str]:
    if plot is None:
        return {"heading": heading, "text": "", "figure": "", "missing": missing}
    figure = svg(plot(source).figure, heading)
    return {"heading": heading, "text": text, "figure": figure, "missing": ""}


def svg(figure: Any, title: str) -> str:
    """A figure as an element of a page, with names that no other figure on it has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
