from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
FIRST = NOTEBOOKS[0]


def execute(text: str) -> str:
    """Run the cells in this process, each as IPython would; the text that they printed."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.chdir(FIRST.parent):
        for cell in jupytext.reads(text, fmt="py:percent").cells:
            if cell.cell_type == "code":
                shell.run_cell(cell.source).raise_error()
    return printed.getvalue()


def check_figures(printed: str) -> None:
    assert any(character.isdigit() for character in printed)
    assert "nan" not in printed


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_notebooks_run_and_print_figures(path: Path) -> None:
    check_figures(execute(path.read_text()))


@pytest.mark.slow
def test_the_first_notebook_runs_in_a_kernel_as_a_user_would_run_it() -> None:
    notebook = jupytext.read(FIRST, fmt="py:percent")
    resources = {"metadata": {"path": str(FIRST.parent)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    check_figures("".join(out.get("text", "") for out in outputs))


def test_a_notebook_takes_a_recorded_file_by_one_variable(tmp_path: Path) -> None:
    from eplb_opt.io import write_loads
    from eplb_opt.io.synthetic import generate

    loads = generate("lognormal", num_layers=3, num_experts=256, tokens=10**6, seed=2)
    write_loads(tmp_path / "loads.json", loads)
    text, unset = FIRST.read_text(), "RECORDING = None"
    assert unset in text
    printed = execute(text.replace(unset, f"RECORDING = {str(tmp_path / 'loads.json')!r}"))
    assert "3 layers, 256 experts" in printed
