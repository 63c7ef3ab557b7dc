"""The files that options name."""

from pathlib import Path

import click
import pytest

from eplb_opt.cli.files import policy_list

EXISTS = "my,policy.py"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["deepseek, refined:20", "vllm"], ["deepseek", "refined:20", "vllm"]),
        (
            ["refined", EXISTS, f"{EXISTS}:Class.place"],
            ["refined", EXISTS, f"{EXISTS}:Class.place"],
        ),
        (["mine.py:a,mine.py:b"], ["mine.py:a", "mine.py:b"]),
        ([], []),
    ],
)
def test_a_comma_parts_policies_but_no_name_of_a_file(
    values: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (EXISTS, "mine.py"):
        (tmp_path / name).touch()
    option = click.Option(["--policy"])
    assert policy_list(click.Context(click.Command("gap")), option, values) == tuple(names)
