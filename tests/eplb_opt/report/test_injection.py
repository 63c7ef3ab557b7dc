"""Names and messages of a measurement are text on a page, whatever is in them."""

import itertools
import json
from html.parser import HTMLParser

import pytest

pytest.importorskip("matplotlib")

from eplb_opt import Instance, Topology, documents, report
from eplb_opt.gap import measure_gap
from eplb_opt.serving.replay import replay
from eplb_opt.serving.state_machine import Settings

HOSTILE = (
    '"><script>alert(1)</script>',
    "</title></style></pre><img src=x onerror=alert(1)>",
    "' onload='alert(1)' <!-- ]]> {{ 7 * 7 }}",
    r"$\alert{ &lt;",
)
FAILED = {"policy": "broken", "status": "error", "message": "trouble", "layers": []}


def gap_json() -> str:
    instance = Instance([[4, 3, 2, 1], [9, 1, 1, 1]], Topology(6, 3), source="loads.json")
    document = documents.gap(measure_gap(instance, ["deepseek", "refined"], explain=True))
    document["policies"].append(FAILED)
    return json.dumps(document)


def replay_json() -> str:
    instance = Instance([[[9, 1, 1, 1]]] * 8, Topology(6, 2), source="loads.json")
    document = documents.replay(replay(instance, ["deepseek", "refined"], Settings(4, 4)))
    document["policies"][0]["intervals"][1]["message"] = "trouble"
    return json.dumps(document)


def sweep_json() -> str:
    rows = []
    for policy, machine in itertools.product(("deepseek", "refined", "broken"), (3, 6)):
        row = {
            "schema": "eplb-opt/sweep/1",
            "unit": f"loads.json | {machine} | {policy}",
            "instance": {
                "source": "loads.json",
                "num_logical_experts": "4",
                "num_physical_experts": 6,
                "num_ranks": machine,
                "num_nodes": 1,
                "num_groups": 1,
                "rule": "global",
            },
            "reference": {"bound": 1},
            "runtime_s": 0.1,
            "num_optimal": 0,
            "gap_mean": 0.1,
            "layer_gaps": [0.1],
            "versions": {"torch": "2.4"},
        }
        rows.append(row | (FAILED if policy == "broken" else {"policy": policy, "status": "ok"}))
    return "\n".join(map(json.dumps, rows))


WORDS = ("deepseek", "refined", "broken", "error", "trouble", "loads.json", "global", "torch", "4",
         "granularity", "packing")  # fmt: skip


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: set[tuple[str, str]] = set()
        self.values: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.elements |= {(tag, name) for name, _ in attrs} | {(tag, "")}
        self.values += [(name, value or "") for name, value in attrs]

    def handle_data(self, data) -> None:
        self.text += data


@pytest.mark.parametrize("document", [gap_json, replay_json, sweep_json])
def test_hostile_names_and_messages_make_no_element_and_no_attribute(document, tmp_path):
    harmless = document()
    hostile = harmless
    for i, word in enumerate(WORDS):
        text = f"{HOSTILE[i % len(HOSTILE)]} {word}"
        hostile = hostile.replace(json.dumps(word), json.dumps(text))
    pages = []
    for name, text in (("harmless", harmless), ("hostile", hostile)):
        path = tmp_path / f"{name}<b>alert.json"
        path.write_text(text)
        pages.append(Page(report.page(path)))
    assert pages[1].elements <= pages[0].elements
    assert {name for name, value in pages[1].values if "alert" in value} <= {"aria-label"}
    for text in HOSTILE:
        assert text in pages[1].text
    known = {value for name, value in pages[1].values if name == "id"}
    used = {value.removeprefix("#") for name, value in pages[1].values if name == "href"}
    assert {name for name in used if not name.startswith("data:")} <= known


def test_what_cannot_be_printed_is_drawn_and_written_all_the_same(tmp_path):
    path = tmp_path / "gap.json"
    path.write_text(gap_json().replace('"refined"', r'"\u001b[31m\ud800$x$\u0000"'))
    assert report.write_page(path, tmp_path / "page.html") == len(
        (tmp_path / "page.html").read_bytes()
    )
    assert r"\x1b[31m\ud800$x$\x00" in (tmp_path / "page.html").read_text()
