from itertools import combinations_with_replacement

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.column_generation.pricing import price, undominated

items = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1, max_size=6)


@settings(max_examples=200)
@given(items=items, size=st.integers(1, 4), capacity=st.integers(-1, 50))
def test_pricing_equals_enumeration(items: list[tuple[int, int]], size: int, capacity: int) -> None:
    weights, values = (np.array(column, dtype=np.int64) for column in zip(*items, strict=True))
    found = price(weights, values, size, capacity)
    multisets = [
        m
        for m in combinations_with_replacement(range(len(items)), size)
        if sum(items[i][0] for i in m) <= capacity
    ]
    assert found.best == max((sum(items[i][1] for i in m) for m in multisets), default=-1)
    for pattern in found.patterns.tolist():
        containing = [m for m in multisets if pattern[0] in m]
        assert sum(items[i][0] for i in pattern) <= capacity
        assert sum(items[i][1] for i in pattern) == max(
            sum(items[i][1] for i in m) for m in containing
        )


@given(items=items)
def test_undominated_items_are_the_pareto_front(items: list[tuple[int, int]]) -> None:
    weights, values = (np.array(column, dtype=np.int64) for column in zip(*items, strict=True))
    kept = {items[i] for i in undominated(weights, values).tolist()}
    front = {
        (w, v)
        for w, v in items
        if not any((a <= w and b >= v) and (a, b) != (w, v) for a, b in items)
    }
    assert kept == front
