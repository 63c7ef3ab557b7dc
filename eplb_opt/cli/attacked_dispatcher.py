"""``eplb-opt attack --dispatcher``: loads and placements on which a dispatcher is worst."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import not_written
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.output import progress_bar
from eplb_opt.cli.policy_options import dispatcher_loaded, policies_loaded

if TYPE_CHECKING:
    from eplb_opt.policies.process import Limits
    from eplb_opt.problem.instance import Instance
    from eplb_opt.testing.dispatchers import Served
    from eplb_opt.testing.dispatchers.attack import DispatcherAttack

SHORT = 24
"""Characters of a ratio that is written out."""


def attack_dispatcher(
    dispatcher: str,
    shape: Instance,
    policy: str | None,
    output: Path | None,
    limits: Limits,
    **options: Any,
) -> int:
    """Search, show, and write the test; the exit code."""
    machine = shape.topology
    if machine.num_nodes > 1 or machine.num_groups > 1:
        raise InputError(
            "--nodes, --groups: attack --dispatcher tries placements without nodes, leave them out"
        )
    found = _hunt(dispatcher, shape, policy, limits, **options)
    _show(found, dispatcher, policy, machine.num_ranks)
    if output is not None and found.worst is None:
        not_written("-o", output, "nothing found")
    elif output is not None and found.worst is not None:
        from eplb_opt.io.atomic import replace_file
        from eplb_opt.testing.dispatchers.attack import as_test

        replace_file(output, as_test(found.worst, dispatcher, machine).encode())
    if found.interrupted:
        return report_interrupt("the worst so far is above" if found.worst else "nothing found")
    return 1 if found.failed else 0


def _hunt(
    dispatcher: str, shape: Instance, policy: str | None, limits: Limits, **options: Any
) -> DispatcherAttack:
    from eplb_opt.testing.dispatchers.attack import hunt_dispatch

    with (
        dispatcher_loaded(dispatcher, limits) as runner,
        policies_loaded([policy] if policy else [], limits, shape) as policies,
        progress_bar() as progress,
        bad_input(),
    ):

        def tell(share: float, worst: Served | None) -> None:
            text = f"worst {float(worst.ratio):.4f}" if worst else ""
            progress(text, int(1000 * share), 1000)

        experts, machine = shape.num_logical_experts, shape.topology
        options |= {"policy": policy, "runner": runner, "policies": policies, "progress": tell}
        found = hunt_dispatch(dispatcher, experts, machine, **options)
        keep_results()
    return found


def _show(found: DispatcherAttack, dispatcher: str, policy: str | None, num_ranks: int) -> None:
    if found.failed:
        click.echo(
            f"eplb-opt: {found.failed} of {found.batches} batches failed: {found.message}", err=True
        )
    worst = found.worst
    if worst is None and found.failed == found.batches > 0:
        click.echo("nothing measured: every call failed")
        return
    if worst is None:
        click.echo("nothing found: no loads on which the dispatcher is above the optimum")
        return
    S = len(worst.phy2log) // num_ranks
    ranks = (worst.phy2log[i : i + S] for i in range(0, len(worst.phy2log), S))
    inside = worst.load_inside(num_ranks)
    whole = " in whole tokens" * worst.whole
    click.echo(f"loads     {_words(worst.loads)}")
    click.echo(f"placement {' | '.join(map(_words, ranks))}")
    if policy is not None:
        click.echo(f"placed    by {policy} for loads {_words(found.placed_on)}")
    click.echo(f"makespan  {_shown(worst.makespan)} of {dispatcher}")
    click.echo(
        f"optimum   {_shown(worst.optimum)}{whole}, proven: experts with {inside} tokens are on no "
        f"rank but {_words(worst.critical)}"
    )
    click.echo(f"ratio     {_shown(worst.ratio)}")


def _words(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def _shown(value: Fraction) -> str:
    """A decimal, rounded down and so that it is not claimed too much, and the exact value where it
    is short.
    """
    exact = "" if len(str(value)) > SHORT or value == int(value) else f" = {value}"
    return f"{math.floor(value * 10**6) / 10**6:.12g}{exact}"
