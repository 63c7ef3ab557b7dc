"""``eplb-opt attack``: loads on which a policy, or a dispatcher, is worst."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.attacked_dispatcher import attack_dispatcher
from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import not_written, policy_files, writable
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.output import progress_bar, write_json
from eplb_opt.cli.parameters import SEED, Finite, TopologyOptions, topology_options
from eplb_opt.cli.policy_options import (
    dispatcher_option,
    policies_loaded,
    policy_limits,
    tell_single_step,
)

if TYPE_CHECKING:
    from eplb_opt.policies.process import Limits
    from eplb_opt.problem.instance import Instance
    from eplb_opt.testing.attack import Attack, Worst


@click.command()
@click.argument("policy", metavar="NAME|FILE.py[:FUNCTION]", callback=policy_files)
@click.option("--experts", type=click.IntRange(min=1), required=True, help="Logical experts.")
@click.option(
    "--least",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="No expert gets fewer tokens; 0 finds worse, if stranger, loads.",
)
@click.option("--seconds", type=Finite(min=1), default=60.0, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=writable,
    help="Write a pytest file.",
)
@click.option(
    "--certificate",
    metavar="FILE",
    callback=writable,
    help="Write the evidence for the optimum; not with --dispatcher.",
)
@dispatcher_option
@click.option(
    "--policy",
    "placing",
    metavar="NAME|FILE.py[:FUNCTION]",
    callback=policy_files,
    help="With --dispatcher: placements are what this makes of other loads; default: any.",
)
@policy_limits
@topology_options
def command(
    policy: str,
    dispatcher: bool,
    placing: str | None,
    experts: int,
    least: int,
    seconds: float,
    seed: int,
    output: Path | None,
    certificate: str | None,
    limits: Limits,
    topology: TopologyOptions,
) -> int:
    """Search for small loads where a policy is furthest from the proven optimum; with --dispatcher
    for loads and placements where a dispatcher is, compared with the best of the same placement.

    Random starts, local search and shrinking for --seconds; the same seed tries the same loads as
    far as the time goes. Meant for some 16 slots, where optima are proven at once.
    """
    import numpy as np

    if topology.spread_replicas:
        raise InputError("--spread-replicas: attack does not keep replicas apart, leave it out")
    shape = topology.instance(np.ones((1, experts), dtype=np.int64), "attack")
    if dispatcher:
        if certificate is not None:
            raise InputError("--certificate proves placements: leave it out with --dispatcher")
        return attack_dispatcher(
            policy, shape, placing, output, limits, least=least, seconds=seconds, seed=seed
        )
    if placing is not None:
        raise InputError("--policy makes the placements of a dispatcher: give --dispatcher, too")
    found = _hunt(policy, shape, limits, least=least, seconds=seconds, seed=seed)
    _show(found, policy)
    _write(found, policy, shape, output, certificate)
    if found.interrupted:
        return report_interrupt(
            "the worst loads so far are above" if found.worst else "nothing found"
        )
    return 1 if found.failed else 0


def _hunt(policy: str, shape: Instance, limits: Limits, **options: Any) -> Attack:
    from eplb_opt.testing.attack import hunt

    with (
        policies_loaded([policy], limits, shape, or_dispatcher=True) as runner,
        progress_bar() as progress,
        bad_input(),
    ):

        def tell(share: float, worst: Worst | None) -> None:
            text = f"worst {float(worst.ratio):.4f}" if worst else ""
            progress(text, int(1000 * share), 1000)

        options |= {"rule": str(shape.rule), "traffic_limit": Fraction(shape.traffic_limit)}
        experts, machine = shape.num_logical_experts, shape.topology
        found = hunt(policy, experts, machine, runner=runner, progress=tell, **options)
        keep_results()
        tell_single_step([policy], runner, "attack gives it one")
    return found


def _show(found: Attack, policy: str) -> None:
    from eplb_opt.problem.objective import Dispatch
    from eplb_opt.problem.rationals import exact_text

    if found.failed:
        click.echo(
            f"eplb-opt: {policy} failed on {found.failed} of {found.batches} batches: "
            f"{found.message}",
            err=True,
        )
    worst = found.worst
    if worst is None and found.failed == found.batches > 0:
        click.echo("nothing measured: every call failed")
        return
    if worst is None:
        click.echo("nothing found: no loads on which the policy is proven to be off the optimum")
        return
    dispatch = worst.result.cost.dispatch
    under = "" if dispatch == Dispatch.EVEN else f" under {dispatch} dispatch"
    click.echo(f"loads    {' '.join(map(str, worst.loads))}")
    click.echo(f"makespan {exact_text(worst.makespan)} of {policy}{under}")
    optimum = worst.result.objective or worst.result.lower_bound
    click.echo(f"optimum  {exact_text(optimum)}, proven ({worst.result.bound_source})")
    click.echo(f"ratio    {float(worst.ratio):.4f} = {exact_text(worst.ratio)}")


def _write(
    found: Attack, policy: str, shape: Instance, output: Path | None, certificate: str | None
) -> None:
    for option, target in (("-o", output), ("--certificate", certificate)):
        if target is not None and found.worst is None:
            not_written(option, target, "nothing found")
    if output is not None and found.worst is not None:
        from eplb_opt.io.atomic import replace_file
        from eplb_opt.testing.attack import as_test

        replace_file(output, as_test(found.worst, policy, shape).encode())
    if certificate is not None and found.worst is not None:
        _write_certificate(certificate, found.worst, shape, interrupted=found.interrupted)


def _write_certificate(target: str, worst: Worst, shape: Instance, *, interrupted: bool) -> None:
    import numpy as np

    from eplb_opt import documents

    loads = replace(shape, loads=np.array([worst.loads]))
    write_json(target, documents.certificate(loads, [worst.result], interrupted=interrupted))
