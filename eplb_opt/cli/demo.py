"""``eplb-opt demo``: the main job on built-in examples."""

from __future__ import annotations

import click

from eplb_opt.cli.interrupts import report_interrupt
from eplb_opt.cli.output import describe, progress_bar, show
from eplb_opt.cli.parameters import SEED

PUBLISHED = [[600, 560, 120, 120, 20, 10, 10, 10]]
"""The field's small example: 8 experts, 16 slots, 8 ranks."""


@click.command()
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the generated loads.")
def command(seed: int) -> int:
    """Measure the field's baseline: a small example with proven optimum, then full scale."""
    import numpy as np

    from eplb_opt.cli.gap import policy_table, reference_line
    from eplb_opt.gap import measure_gap
    from eplb_opt.io.synthetic import generate
    from eplb_opt.problem.instance import Instance
    from eplb_opt.problem.rationals import exact_text
    from eplb_opt.problem.topology import Topology

    small = Instance(np.array(PUBLISHED), Topology(16, 8), source="published example")
    with progress_bar() as progress:
        report = measure_gap(small, progress=progress)
    if report.interrupted:
        return report_interrupt("nothing is done")
    (reference,), (layer,) = report.reference, report.policies[0].layers
    show(
        describe(small),
        f"  loads {PUBLISHED[0]}",
        f"  baseline (deepseek)  {float(layer.makespan):.3f} tokens on the fullest rank",
        f"  {reference.status:<19}  {float(reference.lower_bound):.3f}"
        f" = {exact_text(reference.lower_bound)}, proven by {reference.bound_source}",
        f"  the baseline loses {100 * layer.gap:.1f} %\n",
    )
    loads = generate("deepseek-v3", num_layers=58, num_experts=256, tokens=1 << 20, seed=seed)
    for topology in (Topology(288, 32), Topology(288, 32, num_nodes=4, num_groups=8)):
        instance = Instance(loads, topology, source="generated like DeepSeek-V3")
        with progress_bar() as progress:
            report = measure_gap(instance, progress=progress)
        show(describe(instance), reference_line(report), policy_table(report))
        if report.interrupted:
            return report_interrupt("what is above is done")
    show("Your own loads: eplb-opt gap LOADS --redundant 32 --gpus 32 (see eplb-opt gap --help)")
    return 0
