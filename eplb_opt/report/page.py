"""One self-contained page of HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eplb_opt.gap.frontier import Frontier
from eplb_opt.report import figures, replays
from eplb_opt.report.figures import Source, short
from eplb_opt.report.frontiers import describe_frontier, frontier_document, plot_frontier
from eplb_opt.report.replays import describe, replay_document
from eplb_opt.report.summary import Summary, split_rows, summarize
from eplb_opt.serving.replay import ReplayReport

MOST_HEATMAPS = 2
LOSS = (
    "The loss over the mean rank load, split: what no placement avoids (granularity), the "
    "price of the rule, and the policy's own mistakes in groups, counts and packing."
)
SERVED_LOSS = (
    "The loss over the mean rank load, split: what not even a placement of each step "
    "avoids (granularity), the price of the rule, one placement for all steps (constancy, EVPI), "
    "experts on the wrong ranks (placement, or optimality on the steps seen and staleness, what "
    "other steps add), and tokens not shared best in each step (dispatch). Beside it, no part of "
    "it: vss, what the best placement of the sum costs above the best for the steps."
)
INTERVALS = (
    " In percent of the mean rank load, mean over layers; a .. b is proven to contain the truth. "
    "Full colour: proven of this term; pale: what it has with the best known placements in place "
    "of the optima, which may belong to the terms beside it."
)


def write_page(source: Source | ReplayReport | Frontier, target: str | Path) -> int:
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


def page(source: Source | ReplayReport | Frontier) -> str:
    """The HTML of a report. Text is escaped by the templates alone, here it is as it is."""
    document = replay_document(source)
    if document is not None:
        return render("replay.html.j2", replay_sections(document), describe(document))
    document = frontier_document(source)
    if document is not None:
        words = describe_frontier(document)
        return render("frontier.html.j2", frontier_sections(document), words)
    summary = summarize(source)  # type: ignore[arg-type]
    words = {"summary": summary, "policies": sort_policies(summary)}
    return render("page.html.j2", gap_sections(summary), words)


def render(template: str, parts: Sequence[Section], words: dict[str, Any]) -> str:
    """A template with its figures drawn and its words filled in."""
    try:
        import jinja2

        from eplb_opt.report.svg import draw
    except ImportError:
        raise ImportError(
            "reports need the extra 'report': pip install 'eplb-opt[report]'"
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eplb_opt.report", "."), autoescape=True, trim_blocks=True
    )
    environment.filters |= {"percent": percent, "short": short}
    drawn = [(part, draw(part.plot, f"figure-{i}")) for i, part in enumerate(parts)]
    return environment.get_template(template).render(words, sections=drawn)


@dataclass(frozen=True)
class Section:
    """A part of a page: ``plot`` draws its figure, or is None where there are no data for it; a
    ``table`` below has its heading first.
    """

    heading: str
    text: str
    plot: Callable[[], Any] | None
    missing: str = "No data."
    table: Sequence[Sequence[str]] = ()


def replay_sections(document: dict[str, Any]) -> list[Section]:
    """What a page about a replay shows, in order."""
    found = [
        Section(
            "Balance over time",
            "Mean rank load over fullest rank, all layers of a step together. Grey lines: "
            "rearrangements.",
            partial(replays.plot_balancedness, document),
        ),
        Section(
            "What is moved",
            "Experts received from other ranks until each step, all layers.",
            partial(replays.plot_transfers, document),
        ),
        Section(
            "Loss against moving",
            "Each policy on the whole trace. What is left and below is better on both.",
            partial(replays.plot_tradeoff, document),
        ),
    ]
    return found + [
        Section(
            f"Placement by placement: {short(entry['policy'])}",
            "Loss of the steps that each placement served, what the placement before would have "
            "lost on them, and where the best constant placement lies that knows them.",
            partial(replays.plot_intervals, document, entry["policy"]),
        )
        for entry in document["policies"]
    ]


def frontier_sections(document: dict[str, Any]) -> list[Section]:
    """What a page about a frontier shows."""
    text = (
        "One point a rule, one for several under which a policy does the same: one that does not "
        "know the rule home does as under hierarchical. Filled and joined: the rule home, tighter "
        "limits to the left; hollow: hierarchical and global. Below each point hangs a line down "
        "to the proven bound of the rule: what the rule itself costs lies on that line."
    )
    return [Section("Loss against traffic", text, partial(plot_frontier, document))]


def sort_policies(summary: Summary) -> list[Any]:
    """The policies, smallest mean gap first, those without gaps last."""
    return sorted(
        summary.policies.values(), key=lambda p: (p.gaps.mean is None, p.gaps.mean or 0.0)
    )


def percent(ratio: float | None) -> str:
    """A ratio for a table: three decimals, as on the command line; a small one keeps a digit."""
    if ratio is None:
        return "–"
    return f"{100 * ratio:.0e}" if 0 < ratio < 1e-5 else f"{100 * ratio:.3f}"


def gap_sections(summary: Summary) -> list[Section]:
    """What a page about gaps shows, in order."""
    served = [_served(summary)] if summary.over_steps else []
    return [*served, *_on_gaps(summary), *_on_losses(summary), *_heatmaps(summary)]


def _served(summary: Summary) -> Section:
    some = any(p.losses.size for p in summary.policies.values())
    return Section(
        "Served loss by policy",
        f"What each layer costs above the mean rank load ({summary.cost}). Box: middle half of the "
        "layers; line: median; whiskers: 5 and 95 %; cross: the worst layer.",
        partial(figures.plot_served_loss, summary) if some else None,
    )


def _on_gaps(summary: Summary) -> list[Section]:
    some = any(p.gaps.size for p in summary.policies.values())
    return [
        Section(
            "Gap by policy",
            "Gap of each layer to its proven lower bound. Box: middle half of the layers; line: "
            "median; whiskers: 5 and 95 %; cross: the worst layer.",
            partial(figures.plot_gap, summary) if some else None,
        ),
        Section(
            "Gap against time",
            "Filled points: no other policy is both faster and better. Time is the median of calls "
            "for all layers of an instance, the median over instances. Left out: what was not run "
            "on all instances.",
            partial(figures.plot_gap_against_time, summary) if some else None,
        ),
        Section(
            "What is proven",
            "Where a placement reaches its lower bound it is optimal. The rest is within its gap, "
            "whose bound may be too low.",
            partial(figures.plot_proofs, summary) if some else None,
        ),
    ]


def _on_losses(summary: Summary) -> list[Section]:
    return [
        Section(
            "Where the loss comes from",
            (SERVED_LOSS if summary.cost else LOSS) + INTERVALS,
            partial(figures.plot_attribution, summary) if summary.attribution else None,
            "No data: it comes with `eplb-opt gap --explain --json`.",
            split_rows(summary.attribution),
        ),
        Section(
            "Rank loads, before and after",
            "Load of each rank over the mean, heaviest first, mean over layers"
            f"{', all steps together' if summary.over_steps else ''}.",
            partial(figures.plot_rank_loads, summary) if _with_rank_loads(summary) else None,
            "No data: it comes with `eplb-opt gap --json` under even dispatch, not with a sweep.",
        ),
    ]


def _heatmaps(summary: Summary) -> list[Section]:
    """The experts in order, then the last policies."""
    policies = _with_rank_loads(summary)
    if not policies or summary.before is None:
        return []
    return [
        Section(
            f"Layers and ranks: {short(policy) if policy else 'experts in order'}",
            "A bright cell is a rank that others wait for.",
            partial(figures.plot_heatmap, summary, policy),
        )
        for policy in [None, *policies[-(MOST_HEATMAPS - 1) :]]
    ]


def _with_rank_loads(summary: Summary) -> list[str]:
    return [p.policy for p in summary.policies.values() if p.rank_loads is not None]
