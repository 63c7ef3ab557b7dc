from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from eplb_opt import Instance, Topology, documents, report
from eplb_opt.gap import measure_frontier, measure_gap
from eplb_opt.gap.loss_split import interval_in_points
from eplb_opt.io.synthetic import generate
from eplb_opt.report.summary import Distribution, of_sweep, summarize
from tests.command_line import eplb_opt

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.fixture(scope="module")
def measured():
    loads = generate("deepseek-v3", num_layers=6, num_experts=64, tokens=10**6, seed=1)
    instance = Instance(loads, Topology(72, 8, 4, 8))
    bad = str(Path(__file__).parents[1] / "policies" / "hostile.py") + ":raises"
    return measure_gap(instance, ["deepseek", "refined", bad], explain=True, time_limit=0.1)


@pytest.fixture(scope="module")
def gap_json(measured, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gap") / "gap.json"
    path.write_text(json.dumps(documents.gap(measured)))
    return path


def sweep_row(policy: int, instance: int, rng: np.random.Generator) -> dict:
    gaps = (10.0 ** rng.normal(-3 + policy / 5, 0.5, 8)).tolist()
    failed = instance % 500 == 7 and policy == 3
    return {
        "schema": "eplb-opt/sweep/1",
        "unit": f"loads {instance} | +8 on 8 | auto | policy {policy}",
        "instance": {
            "source": f"loads {instance}",
            "num_layers": 8,
            "num_logical_experts": 64,
            "num_physical_experts": 72,
            "num_ranks": 8 + 8 * (instance % 3),
            "num_nodes": 1,
            "num_groups": 1,
            "rule": "global",
        },
        "policy": f"policy {policy}",
        "status": "error" if failed else "ok",
        "message": "ValueError: <script>alert(1)</script>" if failed else "",
        "runtime_s": None if failed else 0.001 * (policy + 1),
        "gap_mean": None if failed else float(np.mean(gaps)),
        "num_optimal": 0,
        "layer_gaps": [] if failed else gaps,
        "reference": {"optimal": 0, "feasible": 2, "bound": 6},
        "seed": 0,
        "versions": {"eplb-opt": "0.1.0"},
    }


def write_sweep(path: Path, policies: int, instances: int) -> Path:
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for instance in range(instances):
            for policy in range(policies):
                file.write(json.dumps(sweep_row(policy, instance, rng)) + "\n")
    return path


def test_quantiles_are_near_and_mean_and_largest_exact() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([10 ** rng.normal(-3, 1, 4000), np.zeros(1000)])
    found = Distribution()
    for part in np.array_split(values, 7):
        found.add(part)
    assert found.size == 5000
    assert found.mean == pytest.approx(values.mean())
    assert found.largest == values.max()
    for q in (0.25, 0.5, 0.95):
        true = np.quantile(values, q, method="inverted_cdf")
        assert true <= found.quantile(q) * (1 + 1e-12)
        assert found.quantile(q) <= true * 1.06
    assert found.quantile(0.1) == 0


def test_the_figures_draw_on_given_axes(measured) -> None:
    from matplotlib.figure import Figure

    trace = np.arange(3 * 2 * 8).reshape(3, 2, 8) % 7
    of_steps = measure_gap(Instance(trace, Topology(10, 5)), objective="mean")
    assert report.plot_served_loss(of_steps).has_data()
    for plot in (
        report.plot_gap,
        report.plot_gap_against_time,
        report.plot_rank_loads,
        report.plot_heatmap,
        report.plot_attribution,
        report.plot_proofs,
    ):
        ax = Figure().subplots()
        assert plot(measured, ax=ax) is ax
        assert ax.has_data()
        assert ax.get_xlabel()
    with pytest.raises(ValueError, match="no rank loads of best"):
        report.plot_heatmap(measured, policy="best")


def test_rank_loads_of_a_page_are_those_of_the_placements(measured, gap_json) -> None:
    summary = report.summarize(gap_json)
    loads = measured.policies[1].placement.rank_loads(measured.instance.loads, 8)
    assert np.allclose(summary.policies["refined"].rank_loads, loads, rtol=1e-5)
    assert summary.before.sum() == pytest.approx(measured.instance.loads.sum(), rel=1e-5)


def test_attribution_bars_add_up_to_the_loss(measured) -> None:
    ax = report.plot_attribution(measured)
    reach = {}
    for bars in ax.containers:
        for i, bar in enumerate(bars):
            reach[i] = max(reach.get(i, 0), bar.get_x() + bar.get_width())
    totals = [100 * float(split.mean.total) for split in measured.attribution]
    assert list(reach.values()) == pytest.approx(totals)


def test_a_page_of_a_gap_measurement(gap_json, tmp_path) -> None:
    target = tmp_path / "page.html"
    assert eplb_opt("report", gap_json, "-o", target).returncode == 0
    html = target.read_text()
    assert html.count("<svg") == 7
    assert r"RuntimeError: \x1b[31mfirst line" in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names)), "two elements with one name"
    wrong = eplb_opt("report", gap_json, "-o", tmp_path / "page.md")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "page.md: suffix '.md' is not one of .html, .htm" in wrong.stderr


def test_a_page_names_objective_and_dispatch_and_the_terms_over_steps() -> None:
    trace = np.arange(3 * 2 * 8).reshape(3, 2, 8) % 7
    found = measure_gap(Instance(trace, Topology(10, 5)), objective="cvar:0.5", dispatch="optimal",
                        explain=True, time_limit=0)  # fmt: skip
    page = report.page(found)
    assert "10 slots, 5 ranks, cvar:0.5 of 3 steps, optimal dispatch" in page
    assert "--objective cvar:0.5 --dispatch optimal" in page
    assert "one placement for all steps (constancy, EVPI)" in page
    for word in ("<th>served loss %</th>", "Served loss by policy", "<td class=\"number\">vss</td>",
                 "under even dispatch, not with a sweep"):  # fmt: skip
        assert word in page
    (row,) = summarize(found).policies.values()
    assert row.losses.mean == pytest.approx(found.policies[0].loss_mean)
    constancy = interval_in_points(found.attribution[0].mean.terms["constancy"])
    assert " .. " in constancy
    assert f'<td class="number">{constancy}</td>' in page
    legend = report.plot_attribution(found).get_legend().get_texts()
    terms = ["granularity", "rule", "constancy", "placement", "dispatch"]
    assert [text.get_text() for text in legend] == terms


def test_how_to_reproduce_is_what_was_typed(tmp_path) -> None:
    np.save(tmp_path / "trace.npy", np.arange(4 * 2 * 8).reshape(4, 2, 8) % 7)
    typed = ("gap", "trace.npy", "--redundant", 2, "--gpus", 5, "--objective", "mean", "--explain",
             "--normalize-steps", "--time-limit", 0, "--serve-on", "next:2", "--json",
             "gap.json")  # fmt: skip
    assert eplb_opt(*typed, cwd=tmp_path).returncode == 0
    page = report.page(tmp_path / "gap.json")
    assert f"<pre>eplb-opt {' '.join(map(str, typed))}\n" in page
    assert "placed on trace.npy, steps 0 to 1 by 2" in page
    document = json.loads((tmp_path / "gap.json").read_text())
    assert document["instance"]["normalize_steps"]
    (tmp_path / "gap.json").write_text(json.dumps(document | {"command": None}))
    lines = report.page(tmp_path / "gap.json")
    for option in ("--objective mean --dispatch even", "--normalize-steps", "--serve-on",
                   "--explain"):  # fmt: skip
        assert option in lines


def test_a_page_of_a_large_sweep_is_small(tmp_path) -> None:
    results = write_sweep(tmp_path / "r.jsonl", 10, 1000)
    html = report.page(results)
    assert len(html) < 3e6
    assert "1000 instances, 10" in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert html.count("No data") == 2


@pytest.mark.slow
def test_ten_policies_on_ten_thousand_instances(tmp_path) -> None:
    results = write_sweep(tmp_path / "r.jsonl", 10, 10_000)
    start = time.perf_counter()
    html = report.page(results)
    print(f"{time.perf_counter() - start:.1f} s, {len(html) / 1e6:.2f} MB")
    assert len(html) < 3e6


def test_a_torn_line_is_left_out_and_other_files_are_refused(tmp_path) -> None:
    results = write_sweep(tmp_path / "r.jsonl", 2, 3)
    results.write_bytes(results.read_bytes()[:-30])
    said: list[str] = []
    assert sum(of_sweep(results, said.append).policies["policy 1"].statuses.values()) == 2
    assert "torn" in said[0]
    for text in (
        "",
        "{}",
        "[1]",
        "words",
        '{"schema": "eplb-opt/solve/1"}',
        '{"schema": "eplb-opt/gap/1"}',
    ):
        bad = tmp_path / "bad.json"
        bad.write_text(text)
        result = eplb_opt("report", bad, "-o", tmp_path / "x.html")
        assert result.returncode == 2
        assert "bad.json" in result.stderr
        assert result.stderr.count("\n") == 1


def chromium(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    fixed = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-quic", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    assert CHROMIUM is not None
    command = [CHROMIUM, *fixed, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(gap_json, tmp_path) -> None:
    target = tmp_path / "page.html"
    report.write_page(gap_json, target)
    result = chromium(tmp_path, "--dump-dom", target.as_uri())
    assert "CONSOLE" not in result.stderr
    assert result.stdout.count("<svg") == 7
    assert result.stdout.count("<tr>") >= 5
    picture = tmp_path / "page.png"
    chromium(tmp_path, "--window-size=1060,4300", f"--screenshot={picture}", target.as_uri())
    from matplotlib.image import imread

    pixels = imread(picture)[:, :, :3]
    assert pixels.shape[:2] == (4300, 1060)
    drawn = (pixels < 0.9).any(axis=(1, 2))
    assert drawn[:3000].mean() > 0.3  # text and figures all the way down, not a blank page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_check_for_console_errors_sees_them(tmp_path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<script>undefined_function()</script>")
    assert "CONSOLE" in chromium(tmp_path, "--dump-dom", page.as_uri()).stderr


@pytest.fixture(scope="module")
def frontier():
    loads = [[6, 2, 1, 1], [3, 3, 2, 2]]
    machine = Topology(6, 2, num_nodes=2, num_groups=2)
    return measure_frontier(Instance(loads, machine), [0.1, 0.25], ["deepseek", "refined"])


def test_loss_against_traffic(frontier) -> None:
    ax = report.plot_frontier(frontier)
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    under = [
        (str(r.instance.rule), 100 * r.policies[1].traffic_mean, 100 * r.policies[1].loss_mean)
        for r in frontier.reports
    ]
    refined = {tuple(point) for point in lines["refined"]}
    assert refined == {(x, y) for rule, x, y in under if rule == "home"}
    every = {tuple(x) for line in ax.lines for x in line.get_xydata()}
    assert {(x, y) for _, x, y in under} <= every  # hierarchical and global stand alone
    assert len(lines["deepseek"]) == 1  # it does the same under home as under hierarchical
    assert "linear to 10, then logarithmic" in ax.get_xlabel()
    shown = ", ".join(text.get_text() for text in ax.texts)
    assert shown == "hierarchical, home 0.1, home 0.25, home, global"
    (below, *_) = ax.collections[-1].get_segments()
    assert below[0][1] <= below[1][1]


def test_a_page_of_a_frontier(frontier, tmp_path) -> None:
    (tmp_path / "frontier.json").write_text(json.dumps(documents.frontier(frontier, "<typed>")))
    report.write_page(tmp_path / "frontier.json", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 1
    assert "<td>home 0.25</td>" in page
    assert "Interrupted" not in page
    assert "2 nodes, 2 groups" in page
    assert "&lt;typed&gt;" in page
    with pytest.raises(report.ReportError, match="no frontier"):
        report.plot_frontier(tmp_path / "page.html")


def test_a_page_says_where_a_frontier_was_interrupted(frontier) -> None:
    document = documents.frontier(frontier) | {"interrupted": True}
    first, second = document["reports"][:2]
    document["reports"] = [first, second | {"policies": second["policies"][:1]}]
    page = report.page(document)
    assert "home 0.1 is the last rule that was begun" in page
