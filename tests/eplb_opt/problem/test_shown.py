"""What an engineer sees of a result at a prompt and in a notebook: little, and nothing but text."""

import re
from fractions import Fraction

import numpy as np
import pytest

from eplb_opt import Instance, Topology, measure_gap, replay, solve
from eplb_opt.migration import plan_migration
from eplb_opt.problem.result import Result, Stage
from eplb_opt.serving.state_machine import Settings

HOSTILE = "</caption><script>alert(1)</script>"
LOADS = np.random.default_rng(0).integers(1, 1000, (20, 64))
INSTANCE = Instance(LOADS, Topology(72, 8), source=HOSTILE)


def raises(*_):
    raise ValueError(HOSTILE)


def cases():
    old = np.tile(np.arange(72) % 64, (20, 1))
    trace = Instance([LOADS] * 6, Topology(72, 8), source=HOSTILE)
    yield INSTANCE, "20 layers, 64 experts, 72 slots, 8 ranks, global rule)"
    yield measure_gap(INSTANCE, ["deepseek", raises]), "deepseek, status ok, mean gap 0"
    yield solve(INSTANCE.layer(0), time_limit=0), "joint by portfolio): feasible, objective "
    yield plan_migration(INSTANCE, old, budget=5), "at most 5, mean above bound"
    yield replay(trace, ["deepseek"], Settings(4, 4)), "): deepseek, steps 6, loss"


def test_results_are_a_few_lines_of_text_and_a_table_of_escaped_text():
    for result, words in cases():
        text = repr(result)
        assert text.startswith(type(result).__name__ + "(")
        assert words in text
        assert len(text) < 600
        assert text.count("\n") <= 3
        assert re.sub(r"</?(table|caption|tr|th|td)>", "", result._repr_html_()).count("<") == 0


@pytest.mark.parametrize(
    ("objective", "lower_bound", "shown"),
    [
        (
            Fraction(590, 3),
            1,
            "feasible, objective 196.667, lower bound 1, proved by mean, gap",
        ),
        (None, 1, "unknown, lower bound 1, "),
        (Fraction(10**400), 10**400, "optimal, objective 1.00000e+400, lower bound 1.00000e+400"),
    ],
)
def test_values_are_shown_whatever_their_size(objective, lower_bound, shown):
    result = Result(Stage.JOINT, "cp-sat", Fraction(lower_bound), objective, bound_source="mean")
    assert repr(result).startswith("Result(joint by cp-sat): ")
    assert shown in repr(result)
