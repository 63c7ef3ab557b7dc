"""Certificates over several steps: how large they are, and how long writing and checking take.

    python benchmarks/served_certificates.py sizes
    python benchmarks/served_certificates.py optima --seconds 60

``sizes``: one layer, placed by ``deepseek`` for the sum of its steps, with the bound of
``eplb_opt.bounds``. ``optima``: small layers solved, whose search is done again. Loads: lognormal
1, 64 tokens an expert and step, with drift between steps.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import product

from eplb_opt import Instance, Topology, bounds, documents
from eplb_opt.certificate import CheckBudget, parse_document, verify_document
from eplb_opt.io.synthetic import generate
from eplb_opt.policies.names import load_policy
from eplb_opt.problem.objective import Cost
from eplb_opt.problem.result import Result, Stage
from solvers import solve
from solvers.dispatch import value, value_evidence

LARGE = [(32, 40, 8), (256, 288, 32), (256, 320, 64)]
STEPS = (1, 4, 16, 256, 1000)
SMALL = [(6, 8, 4), (8, 12, 4), (10, 12, 4), (12, 16, 4)]
DISPATCHES = ("even", "fixed", "optimal")
COLUMNS = ("dispatch", "size", "written", "checked", "units")
HEAD = f"{'shape':<15} {'T':>5} " + " ".join(f"{name:>12}" for name in COLUMNS)


def instance_of(shape: Sequence[int], steps: int, seed: int = 0) -> Instance:
    """(E, P, G)."""
    experts, slots, ranks = shape
    tokens = 64 * experts
    trace = generate(
        "lognormal", num_layers=1, num_experts=experts, tokens=tokens, seed=seed, steps=steps
    )
    return Instance(trace, Topology(slots, ranks))


def placed(instance: Instance, cost: Cost) -> Result:
    """The baseline's placement with a bound that an argument proves."""
    layer = instance.layer(0)
    slots = tuple(load_policy("deepseek").run(instance).placement.phy2log[0].tolist())
    found, bound = value(layer, slots, *cost), bounds.of(layer, *cost)
    return Result(
        Stage.JOINT,
        "deepseek",
        bound.value,
        found.value,
        slots,
        bound_source=bound.source,
        certificate=bound.evidence,
        cost=cost,
        shares=found.shares,
        value_evidence=value_evidence(layer, slots, cost),
    )


def show(instance: Instance, result: Result) -> str:
    """Size, seconds to write and to check, units of the checker's budget, and the verdict."""
    start = time.perf_counter()
    document = documents.certificate(instance, [result], interrupted=False)
    content = (json.dumps(document, indent=1) + "\n").encode()
    written = time.perf_counter()
    budget = CheckBudget()
    whole = budget.left
    (verdict,) = verify_document(parse_document(content), budget)
    seconds = time.perf_counter() - written
    trusted = f" ({' and '.join(verdict.trusted)} trusted)" if verdict.trusted else ""
    return (
        f"{len(content) / 1024:8.1f} KiB {written - start:10.2f} s {seconds:10.2f} s "
        f"{whole - budget.left:12,} {verdict.kind}{trusted}"
    )


def sizes(objective: str) -> None:
    print(HEAD)
    for shape, steps in product(LARGE, STEPS):
        instance = instance_of(shape, steps)
        for dispatch in DISPATCHES:
            try:
                row = show(instance, placed(instance, Cost.of(objective, dispatch)))
            except ValueError as error:
                row = str(error)
            print(f"{shape!s:<15} {steps:>5} {dispatch:>12} {row}", flush=True)


def optima(objective: str, seconds: float) -> None:
    print(HEAD)
    for shape, steps in product(SMALL, (1, 4, 16)):
        instance = instance_of(shape, steps)
        for dispatch in DISPATCHES:
            found = solve(instance.layer(0), objective=objective, dispatch=dispatch,
                          time_limit=seconds)  # fmt: skip
            row = f"{show(instance, found)} {found.status}"
            print(f"{shape!s:<15} {steps:>5} {dispatch:>12} {row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["sizes", "optima"])
    parser.add_argument("--objective", default="mean")
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    if arguments.table == "sizes":
        sizes(arguments.objective)
    else:
        optima(arguments.objective, arguments.seconds)


if __name__ == "__main__":
    main()
