from __future__ import annotations

import pytest
import torch

from heuristics.dispatch.interior_point import shares
from heuristics.dispatch.lplb import lplb
from heuristics.dispatch.rules import SHARE_RULES, UnknownDispatcherError, share_rule

PHY2LOG = torch.tensor([[0, 1, 1, 2, 3, 0]])
LOADS = torch.tensor([[[30.0, 20, 5, 1]], [[3.0, 8, 2, 1]]])


def test_names() -> None:
    assert torch.equal(share_rule("lplb:7")(LOADS, PHY2LOG, 3), lplb(LOADS, PHY2LOG, 3, steps=7))
    one_sweep = shares(LOADS, PHY2LOG, 3, sweeps=1)
    assert torch.equal(share_rule("sweeps:1")(LOADS, PHY2LOG, 3), one_sweep)
    even = share_rule("even")(LOADS, PHY2LOG, 3)
    assert torch.equal(share_rule("sweeps:0")(LOADS, PHY2LOG, 3), even)
    for name in SHARE_RULES:
        assert share_rule(name)(LOADS, PHY2LOG, 3).shape == (2, 1, 6)
    assert torch.equal(even[1, 0], torch.tensor([0.5, 0.5, 0.5, 1, 1, 0.5]))


@pytest.mark.parametrize(
    "name",
    ["", "optimal", "even:3", "lplb:", "lplb:0", "lplb:-1", "sweeps:2.5", "sweeps:٣"],
)
def test_a_name_that_does_not_exist_is_told_what_does(name: str) -> None:
    with pytest.raises(UnknownDispatcherError) as caught:
        share_rule(name)
    assert str(caught.value) == (
        f"dispatcher={name!r} is not one of even, sweeps, lplb, sweeps:N with N at least 0, "
        "lplb:N with N at least 1"
    )
