"""The names of the package, and what importing it costs."""

import subprocess
import sys

import pytest

import eplb_opt
import solvers


@pytest.mark.parametrize("name", eplb_opt.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(eplb_opt, name).__name__ == name


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="'eplb_opt' has no attribute 'optimum'"):
        _ = eplb_opt.optimum
    with pytest.raises(AttributeError, match="'solvers' has no attribute 'optimum'"):
        _ = solvers.optimum


def test_valuing_a_placement_loads_no_engine() -> None:
    program = (
        "import sys, eplb_opt.gap, solvers.dispatch, eplb_opt.documents\n"
        "print([m for m in ('torch', 'ortools', 'pulp', 'numba', 'scipy') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
