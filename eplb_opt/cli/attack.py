"""``eplb-opt attack``: loads on which a policy is worst."""

from __future__ import annotations

from pathlib import Path

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.output import progress_bar, write_json
from eplb_opt.cli.parameters import TopologyOptions, topology_options


@click.command()
@click.argument("policy", metavar="NAME|FILE.py[:FUNCTION]")
@click.option("--experts", type=click.IntRange(min=1), required=True, help="Logical experts.")
@click.option(
    "--least",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="No expert gets fewer tokens; 0 finds worse, if stranger, loads.",
)
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a pytest file.")
@click.option("--certificate", metavar="FILE", help="Write the evidence for the optimum.")
@topology_options
def command(
    policy: str,
    experts: int,
    least: int,
    seconds: float,
    seed: int,
    output: Path | None,
    certificate: str | None,
    topology: TopologyOptions,
) -> int:
    """Search for small loads where POLICY is furthest from the proven optimum.

    Random starts, local search and shrinking for --seconds; the same seed tries the same loads as
    far as the time goes. Meant for some 16 slots, where optima are proven at once.
    """
    import numpy as np

    from eplb_opt.policies.names import PolicyError, known_policy
    from eplb_opt.problem.rationals import exact_text
    from eplb_opt.testing.attack import as_test, attack

    try:
        known_policy(policy)
    except PolicyError as error:
        raise InputError(str(error)) from error
    shape = topology.instance(np.ones((1, experts), dtype=np.int64), "attack")
    with progress_bar() as progress, bad_input():
        worst = attack(
            policy,
            experts,
            shape.topology,
            seconds=seconds,
            seed=seed,
            rule=str(shape.rule),
            least=least,
            progress=lambda share, found: progress(
                f"worst {float(found.ratio):.4f}" if found else "", int(1000 * share), 1000
            ),
        )
    if worst is None:
        click.echo("nothing found: the policy was optimal, or failed, on all loads tried")
        return 0
    click.echo(f"loads    {' '.join(map(str, worst.loads))}")
    click.echo(f"makespan {exact_text(worst.makespan)} of {policy}")
    optimum = worst.result.objective or worst.result.lower_bound
    click.echo(f"optimum  {exact_text(optimum)}, proven ({worst.result.bound_source})")
    click.echo(f"ratio    {float(worst.ratio):.4f} = {exact_text(worst.ratio)}")
    if output is not None:
        from eplb_opt.io.atomic import replace_file

        replace_file(output, as_test(worst, policy, shape.topology).encode())
    if certificate is not None:
        from eplb_opt import documents
        from eplb_opt.problem.instance import Instance

        found = Instance(np.array([worst.loads]), shape.topology, shape.rule)
        write_json(certificate, documents.certificate(found, [worst.result], interrupted=False))
    return 0
