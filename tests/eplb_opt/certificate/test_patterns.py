import ast
import importlib.util
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eplb_opt import Instance, Layer, documents
from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError
from eplb_opt.certificate.parsing import parse_evidence
from eplb_opt.certificate.patterns import _richest_rank, certified_pattern_bound
from eplb_opt.problem.evidence import Pattern
from solvers.column_generation.pattern_bound import pattern_bound
from tests.oracles.layers import make_layer
from tests.oracles.packings import joint_optimum

LAYER = make_layer([20, 17, 9, 5, 5, 3], 9, 3)
HEAVY = make_layer([8, 8, 8], 4, 2)
OPTIMA = {LAYER: joint_optimum(LAYER), HEAVY: joint_optimum(HEAVY)}


MALFORMED = "fields|must|out of range|no kind|is missing or no"
ZIPF = make_layer([4096 * 16 // (i + 1) for i in range(16)], 18, 6)


def evidence(layer: Layer = ZIPF) -> dict[str, Any]:
    found = pattern_bound(layer).evidence
    assert found is not None
    return documents.evidence(found)


def proven(layer: Layer, certificate: dict[str, Any]) -> Fraction:
    found = parse_evidence(certificate)
    assert isinstance(found, Pattern)
    return certified_pattern_bound(layer, found)


def test_untouched_evidence_is_accepted() -> None:
    certificate = evidence()
    assert proven(ZIPF, certificate) == Fraction(certificate["bound"])


def test_a_larger_bound_is_refused() -> None:
    certificate = evidence()
    larger = str(Fraction(certificate["bound"]) * Fraction(101, 100))
    with pytest.raises(ValueError, match="not proven"):
        proven(ZIPF, certificate | {"bound": larger})


def test_loads_that_are_no_whole_numbers() -> None:
    quarters = Instance([[load / 4 + 1 / 64 for load in ZIPF.loads]], ZIPF.topology).layer(0)
    assert quarters.unit < 1
    certificate = evidence(quarters)
    bound = Fraction(certificate["bound"])
    assert proven(quarters, certificate) == bound
    with pytest.raises(ValueError, match="not proven"):
        proven(quarters, certificate | {"bound": str(bound * 101 / 100)})


def test_evidence_for_another_layer_is_refused() -> None:
    certificate = evidence()
    lighter = make_layer([9 * w // 10 for w in ZIPF.loads], 18, 6)
    with pytest.raises(ValueError, match="not proven"):
        proven(lighter, certificate)


def test_prices_of_nothing_prove_nothing() -> None:
    certificate = evidence()
    with pytest.raises(ValueError, match="not proven"):
        proven(ZIPF, certificate | {"levels": [[0, 0]], "count_price": 0})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "threshold"),
        ("bound", "0"),
        ("bound", "-3/2"),
        ("bound", "twelve"),
        ("bound", "1e99999999"),
        ("bound", "1/0"),
        ("bound", 12.5),
        ("bound", None),
        ("grid", 0),
        ("grid", 2**60),
        ("grid", 1.5),
        ("count_price", 2**40),
        ("count_price", "1"),
        ("levels", []),
        ("levels", [[0, -1]]),
        ("levels", [[5, 1], [5, 2]]),
        ("levels", [[7, 1], [5, 2]]),
        ("levels", [[0, 2**40]]),
        ("levels", [[0, 0.5]]),
        ("levels", [[0, True]]),
        ("levels", [[0, 1, 2]]),
        ("levels", 3),
    ],
)
def test_malformed_evidence_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=MALFORMED):
        proven(ZIPF, evidence() | {field: value})


@pytest.mark.parametrize("field", ["kind", "bound", "grid", "count_price", "levels"])
def test_a_missing_field_is_refused(field: str) -> None:
    certificate = evidence()
    del certificate[field]
    with pytest.raises(ValueError, match=r"fields|'kind' is missing"):
        proven(ZIPF, certificate)


def test_an_extra_field_is_refused() -> None:
    with pytest.raises(ValueError, match="fields"):
        proven(ZIPF, evidence() | {"note": "trust me"})


def test_evidence_too_large_to_check_is_said_to_be_so() -> None:
    levels = [[i, 2**20 - i] for i in range(2**14)]
    layer = make_layer(list(range(1, 301)), 600, 2)
    certificate = {
        "kind": "pattern",
        "bound": "22600",
        "grid": 2**20,
        "count_price": 0,
        "levels": levels,
    }
    with pytest.raises(TooLargeToCheckError):
        proven(layer, certificate)


@settings(max_examples=300)
@given(
    bound=st.fractions(min_value=8, max_value=24, max_denominator=7),
    grid=st.integers(1, 60),
    count_price=st.integers(-20, 20),
    starts=st.lists(st.integers(0, 60), min_size=1, max_size=5, unique=True),
    prices=st.lists(st.integers(0, 30), min_size=5, max_size=5),
    layer=st.sampled_from([LAYER, HEAVY]),
)
def test_whatever_is_accepted_is_below_the_optimum(
    bound: Fraction,
    grid: int,
    count_price: int,
    starts: list[int],
    prices: list[int],
    layer: Any,
) -> None:
    """Made-up evidence: the checker may refuse it, but must never accept a bound that is false."""
    levels = [[s, p] for s, p in zip(sorted(s for s in starts if s <= grid), prices, strict=False)]
    certificate = {
        "kind": "pattern",
        "bound": str(bound),
        "grid": grid,
        "count_price": count_price,
        "levels": levels,
    }
    try:
        accepted = proven(layer, certificate)
    except ValueError:
        return
    assert accepted <= OPTIMA[layer]


def test_the_checker_imports_no_solver() -> None:
    spec = importlib.util.find_spec("eplb_opt.certificate.patterns")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    allowed = {
        "__future__",
        "fractions",
        "numpy",
        "numpy.typing",
        "eplb_opt.certificate.budget",
        "eplb_opt.problem.evidence",
        "eplb_opt.problem.layer",
        "eplb_opt.problem.rationals",
    }
    assert modules <= allowed


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6)), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 30),
)
def test_the_richest_rank_is_that_of_all_combinations(items, size, grid) -> None:
    weights, prices = (np.array(column, dtype=np.int64) for column in zip(*items, strict=True))
    worths = [
        sum(price for _, price in chosen)
        for chosen in itertools.combinations_with_replacement(items, size)
        if sum(weight for weight, _ in chosen) < grid
    ]
    assert _richest_rank(weights, prices, size, grid, CheckBudget()) == max(worths, default=-1)
