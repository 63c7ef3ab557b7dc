"""What a report shows, gathered from a gap report or from a sweep, in bounded memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt import documents
from eplb_opt.gap import GapReport
from eplb_opt.gap.loss_split import Interval, interval_in_points, points

LOWEST, HIGHEST, STEPS = -8.0, 2.0, 40
"""Gaps are counted in 40 steps a decade from 1e-8 to 100; all below count as 0."""
MOST_MESSAGES = 50
"""Different failures that are told apart."""

NO_REPORT = (
    "{path}: neither JSON of a gap or a replay nor results of a sweep: give what "
    "`eplb-opt gap --json`, `eplb-opt replay --json` or `eplb-opt sweep -o` wrote"
)


class ReportError(ValueError):
    """A file that can't be reported; one line."""


@dataclass
class Distribution:
    """Gaps, counted on a logarithmic grid, so that a million take the memory of one."""

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(int((HIGHEST - LOWEST) * STEPS) + 1, dtype=np.int64)
    )
    total: float = 0.0
    largest: float = 0.0

    def add(self, gaps: Iterable[float]) -> None:
        """Count some gaps."""
        values = np.asarray(list(gaps), dtype=np.float64)
        if not len(values):
            return
        place = np.ceil((np.log10(np.maximum(values, 1e-300)) - LOWEST) * STEPS)
        np.add.at(self.counts, np.clip(place, 0, len(self.counts) - 1).astype(int), 1)
        self.total += float(values.sum())
        self.largest = max(self.largest, float(values.max()))

    @property
    def size(self) -> int:
        """How many gaps there are."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        """Exact; None without gaps."""
        return self.total / self.size if self.size else None

    def quantile(self, q: float) -> float:
        """At most 6 % above the true quantile; 0 where that is below 1e-8."""
        place = int(np.searchsorted(self.counts.cumsum(), q * self.size))
        value = 0.0 if place == 0 else 10 ** (LOWEST + place / STEPS)
        return float(min(value, self.largest))


@dataclass
class PolicySummary:
    """A policy over all instances. ``runtimes`` are seconds of one call, one an instance;
    ``losses`` are served losses of layers, where steps were measured.
    """

    policy: str
    gaps: Distribution = field(default_factory=Distribution)
    losses: Distribution = field(default_factory=Distribution)
    runtimes: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    optimal: int = 0
    rank_loads: NDArray[np.float64] | None = None

    @property
    def runtime(self) -> float | None:
        """Median seconds."""
        return median(self.runtimes) if self.runtimes else None


@dataclass
class Summary:
    """Everything on the page.

    Attributes:
        title: what was measured.
        policies: by name, in the order in which they came.
        references: layers by the status of their reference, of one policy's instances.
        failures: (policy, status, message) -> how often.
        by_machine: machine -> policy -> gaps.
        before: [L, G] rank loads with the experts in order; None where not known.
        attribution: as in the gap JSON.
        cost: objective and dispatch, if they are not ``sum`` and ``even``.
        over_steps: a served loss was measured.
        reproduce: lines.
        interrupted: a gap measurement that ended early.
    """

    title: str
    policies: dict[str, PolicySummary] = field(default_factory=dict)
    references: Counter[str] = field(default_factory=Counter)
    failures: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    by_machine: dict[str, dict[str, Distribution]] = field(default_factory=dict)
    before: NDArray[np.float64] | None = None
    attribution: list[dict[str, Any]] = field(default_factory=list)
    cost: str = ""
    over_steps: bool = False
    reproduce: list[str] = field(default_factory=list)
    instances: int = 0
    interrupted: bool = False

    def of(self, policy: str) -> PolicySummary:
        """The entry of a policy, made when it first comes."""
        return self.policies.setdefault(policy, PolicySummary(policy))

    def add(self, machine: str, row: dict[str, Any], gaps: list[float]) -> None:
        """Count one policy on one instance."""
        policy = self.of(row["policy"])
        policy.statuses[row["status"]] += 1
        if row["status"] != "ok":
            key = (row["policy"], row["status"], row.get("message", ""))
            if key in self.failures or len(self.failures) < MOST_MESSAGES:
                self.failures[key] += 1
            return
        policy.gaps.add(gaps)
        policy.optimal += row["num_optimal"]
        if row.get("runtime_s") is not None:
            policy.runtimes.append(row["runtime_s"])
        self.by_machine.setdefault(machine, {}).setdefault(row["policy"], Distribution()).add(gaps)


def document_of(
    source: Any, report: type, write: Callable[[Any], dict[str, Any]], schema: str
) -> dict[str, Any] | None:
    """The JSON document of a report, which ``write`` writes, of a file or of itself; None if the
    source is of another schema.
    """
    if isinstance(source, report):
        return write(source)
    if isinstance(source, str | Path):
        try:
            source = json.loads(Path(source).read_text(encoding="utf-8", errors="replace"))
        except ValueError:  # lines of a sweep, or no JSON at all
            return None
    found = isinstance(source, dict) and source.get("schema") == schema
    return source if found else None


def summarize(source: GapReport | Summary | str | Path) -> Summary:
    """The summary of a report, or of a file: gap JSON, or JSON lines of a sweep.

    Raises:
        ReportError: neither of both; the message names file, line and remedy.
        OSError: the file can't be read.
    """
    if isinstance(source, Summary):
        return source
    if isinstance(source, GapReport):
        return of_gap(documents.gap(source))
    path = Path(source)
    schema, document = _first(path)
    if schema.startswith("eplb-opt/gap/"):
        try:
            return of_gap(document or json.loads(path.read_text()))
        except (KeyError, TypeError) as error:
            raise ReportError(f"{path}: the gap JSON lacks {error}: write it again") from None
    if not schema.startswith("eplb-opt/sweep/"):
        raise ReportError(NO_REPORT.format(path=path))
    return of_sweep(path)


def _first(path: Path) -> tuple[str, dict[str, Any] | None]:
    """The schema of a file, and the document if it was short enough to be read whole."""
    with path.open(encoding="utf-8", errors="replace") as file:
        line = file.readline()
    try:
        row = json.loads(line)
        return str(row["schema"]), None
    except (ValueError, KeyError, TypeError):
        pass
    try:
        document = json.loads(path.read_text())
        return str(document["schema"]), document
    except (ValueError, KeyError, TypeError):
        raise ReportError(NO_REPORT.format(path=path)) from None


def machine_of(instance: dict[str, Any] | None) -> str:
    """A line about the machine of an instance, and what was measured on it if that is unusual."""
    if instance is None:
        return "none"
    nodes = ""
    if instance["rule"] != "global":
        nodes = f", {instance['num_nodes']} nodes, {instance['num_groups']} groups"
    if instance["rule"] == "home":
        limit = instance.get("traffic_limit", 1.0)
        nodes += " at home" + (f", traffic up to {limit:g}" if limit < 1 else "")
    cost = cost_of(instance)
    return (
        f"{instance['num_logical_experts']} experts, {instance['num_physical_experts']} slots, "
        f"{instance['num_ranks']} ranks{nodes}{f', {cost}' if cost else ''}"
    )


def cost_of(instance: dict[str, Any]) -> str:
    """Objective and dispatch; nothing for the sum under even dispatch."""
    objective, dispatch = instance.get("objective", "sum"), instance.get("dispatch", "even")
    if (objective, dispatch) == ("sum", "even"):
        return ""
    steps = f" of {instance['num_steps']} steps" if objective != "sum" else ""
    return f"{objective}{steps}, {dispatch} dispatch"


def of_gap(document: dict[str, Any]) -> Summary:
    """The summary of one gap JSON."""
    instance = document["instance"]
    seen = document.get("placed_on") or instance["source"]
    placed = f", placed on {seen}" if seen != instance["source"] else ""
    title = f"{instance['source']}: {machine_of(instance)}, {instance['rule']} rule{placed}"
    found = Summary(title, instances=1, cost=cost_of(instance))
    found.over_steps = instance.get("objective", "sum") != "sum"
    mean_loads = {r["layer"]: r["mean_load"] for r in document["reference"]}
    for reference in document["reference"]:
        if reference["status"] != "no-load":
            found.references[reference["status"]] += 1
    for row in document["policies"]:
        found.add(machine_of(instance), row, [layer["gap"] for layer in row["layers"]])
        if found.over_steps:
            costs = [(x["makespan"], mean_loads[x["layer"]]) for x in row["layers"]]
            known = (makespan / mean - 1 for makespan, mean in costs if makespan and mean)
            found.of(row["policy"]).losses.add(known)
        if row.get("rank_loads"):
            found.of(row["policy"]).rank_loads = np.array(row["rank_loads"], dtype=np.float64)
    if document.get("rank_loads_in_order"):
        found.before = np.array(document["rank_loads_in_order"], dtype=np.float64)
    found.interrupted = document.get("interrupted", False)
    found.attribution = document.get("attribution", [])
    found.reproduce = [document.get("command") or _command(document, seen), *_versions(document)]
    return found


def _command(document: dict[str, Any], seen: str) -> str:
    """The command line as far as the fields tell it, for a measurement in Python."""
    instance = document["instance"]
    words = [
        f"eplb-opt gap {quote(seen)} --physical {instance['num_physical_experts']} "
        f"--gpus {instance['num_ranks']} --nodes {instance['num_nodes']} "
        f"--groups {instance['num_groups']} --rule {instance['rule']}"
    ]
    if instance.get("traffic_limit", 1.0) < 1:
        words.append(f"--traffic {instance['traffic_limit']!r}")
    if cost_of(instance):
        words.append(f"--objective {instance['objective']} --dispatch {instance['dispatch']}")
    words += ["--normalize-steps"] if instance.get("normalize_steps") else []
    words += [f"--policy {quote(row['policy'])}" for row in document["policies"]]
    words += [f"--serve-on {quote(instance['source'])}"] if seen != instance["source"] else []
    words += ["--explain"] if document.get("attribution") else []
    return " ".join(words)


def split_rows(attribution: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The table of a split in points, its heading first: a row a policy, ``a .. b`` is proven to
    contain the truth.
    """
    if not attribution:
        return []
    names = _parts(attribution[0]["mean"])
    sums = attribution[0]["mean"]["sums"]
    heading = ["policy", "total", *(f"= {name}" if name in sums else name for name in names)]
    rows = [
        [
            entry["policy"],
            points(Fraction(entry["mean"]["total_exact"])),
            *(interval_in_points(interval) for interval in _parts(entry["mean"]).values()),
        ]
        for entry in attribution
    ]
    return [heading, *rows]


def _parts(split: dict[str, Any]) -> dict[str, Interval]:
    """Terms, their sums, and what stands beside them."""
    found = split["terms"] | split["sums"] | split.get("beside", {})
    return {
        name: Interval(Fraction(part["low_exact"]), Fraction(part["high_exact"]))
        for name, part in found.items()
    }


def of_sweep(path: Path, warn: Callable[[str], None] = lambda _text: None) -> Summary:
    """The summary of a sweep's results, read line by line."""
    from eplb_opt.sweep import rows

    found, seen = Summary(path.name), set[str]()
    versions: dict[str, None] = {}
    for row in rows(path, warn):
        gaps = row.get("layer_gaps")
        if gaps is None:
            gaps = [] if row.get("gap_mean") is None else [row["gap_mean"]]
        found.add(machine_of(row.get("instance")), row, gaps)
        place = row["unit"].rsplit(" | ", 1)[0]
        if place not in seen:
            seen.add(place)
            found.references.update(row.get("reference") or {})
        versions.update(dict.fromkeys(_versions(row)))
    found.instances = len(seen)
    found.reproduce = [f"eplb-opt sweep SPEC.yaml -o {quote(path.name)}", *versions]
    return found


def _versions(document: dict[str, Any]) -> list[str]:
    versions = document.get("versions")
    if not versions:
        return []
    text = ", ".join(f"{name} {number}" for name, number in versions.items())
    return [f"{text}; seed {document.get('seed', 0)}"]
