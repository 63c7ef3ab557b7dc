"""The command line: one module per command, imported when that command runs."""

from __future__ import annotations

import importlib
import sys

import click

from eplb_opt.cli.errors import InputError
from eplb_opt.cli.interrupts import cut_short, heed_signals, keep_results

COMMANDS = (
    "demo",
    "gap",
    "solve",
    "bound",
    "verify",
    "migrate",
    "sweep",
    "export",
    "report",
    "check",
    "attack",
    "replay",
    "policies",
    "generate",
    "convert",
    "bench",
)


class _LazyGroup(click.Group):
    """Each command is ``eplb_opt.cli.NAME:command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"eplb_opt.cli.{name}").command
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="eplb-opt")
def cli() -> None:
    """Proven optimality gaps for expert-parallel load balancing (EPLB).

    Start with 'eplb-opt demo', then 'eplb-opt gap LOADS --redundant 32 --gpus 32'.
    """


def main() -> None:
    """Run the command line.

    Exit code 0 done, 1 a check failed or a policy has no result, 2 bad input, 130 after Ctrl-C, 143
    after SIGTERM.
    """
    heed_signals()
    code = _run()
    keep_results()  # nothing is left to be stopped
    sys.exit(code)


def _run() -> int:
    try:
        return cli.main(standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        return _bad_input(error.format_message())
    except (InputError, OSError) as error:
        return _bad_input(str(error))
    except (click.Abort, KeyboardInterrupt):
        return cut_short()


def _bad_input(message: str) -> int:
    from eplb_opt.problem.shown import printable

    one_line = printable(" ".join(message.split()))
    click.echo(f"eplb-opt: error: {one_line}", err=True)
    return 2
