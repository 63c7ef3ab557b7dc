from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def execute(path: Path, replaced: tuple[str, str] = ("", "")) -> str:
    """Run a notebook as a user would; the text that it printed."""
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient")
    text = path.read_text()
    assert replaced[0] in text
    notebook = jupytext.reads(text.replace(*replaced) if replaced[0] else text, fmt="py:percent")
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.get("text", "") for out in outputs)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_notebooks_run_and_print_figures(path: Path) -> None:
    printed = execute(path)
    assert any(character.isdigit() for character in printed)
    assert "nan" not in printed


def test_a_notebook_takes_a_recorded_file_by_one_variable(tmp_path: Path) -> None:
    from eplb_opt.io import write_loads
    from eplb_opt.io.synthetic import generate

    loads = generate("lognormal", num_layers=3, num_experts=256, tokens=10**6, seed=2)
    write_loads(tmp_path / "loads.json", loads)
    path = NOTEBOOKS / "01_first_gap.py"
    printed = execute(path, ("RECORDING = None", f"RECORDING = {str(tmp_path / 'loads.json')!r}"))
    assert "3 layers, 256 experts" in printed
