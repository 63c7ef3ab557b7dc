"""Options that several commands share."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError, bad_input
from eplb_opt.cli.files import readable, writable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from eplb_opt.problem.instance import Instance

Steps = tuple[int | None, int | None]
Command = Callable[..., Any]


SEED = click.IntRange(0, 2**31 - 1)
"""What all solvers take."""


class Finite(click.FloatRange):
    """A number in a range; neither NaN, which a range lets pass, nor infinite."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number.

        Raises:
            click.BadParameter: it is none, or not in the range.
        """
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def parse_steps(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Steps | None:
    """``a:b``, either end may be missing, as in a Python slice."""
    if value is None:
        return None
    start, colon, stop = value.partition(":")
    try:
        ends = (int(start) if start else None, int(stop) if stop else None)
    except ValueError:
        ends = None
    if not colon or ends is None:
        raise click.BadParameter(f"{value!r} is not of the form a:b, for instance 0:10")
    return ends


def parse_traffic(
    _ctx: click.Context, _param: click.Parameter, values: Sequence[str]
) -> tuple[Fraction, ...]:
    """``0.05,0.1``, also given one by one: exact decimals from 0 to 1, in the order given, each
    once.
    """
    parts = [part.strip() for value in values for part in value.split(",")]
    for part in parts:
        if not re.fullmatch(r"[01]|[01]?\.[0-9]{1,100}", part) or Fraction(part) > 1:
            raise click.BadParameter(f"{part!r} is not a decimal from 0 to 1, such as 0.05")
    return tuple(dict.fromkeys(map(Fraction, parts)))


MOST_LAYERS = 1_000_000
"""No model has so many; a list of them fits in memory."""


def parse_layers(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> list[int] | None:
    """``0-9,12``: the layers in the order given, each once."""
    if value is None:
        return None
    layers: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdecimal() for end in ends):
            raise click.BadParameter(f"{value!r} is not of the form 0-9,12")
        if int(ends[1]) - int(ends[0]) >= MOST_LAYERS:
            raise click.BadParameter(f"{value!r} names more than {MOST_LAYERS} layers")
        layers += range(int(ends[0]), int(ends[1]) + 1)
    if not layers:
        raise click.BadParameter(f"{value!r} names no layer")
    return list(dict.fromkeys(layers))


@dataclass(frozen=True)
class TopologyOptions:
    """The machine as given on the command line."""

    redundant: int | None
    physical: int | None
    gpus: int
    nodes: int
    groups: int
    rule: str
    traffic: tuple[Fraction, ...]
    spread_replicas: bool

    def instance(self, loads: Any, source: str, normalize_steps: bool = False) -> Instance:
        """The instance for loads [L, E] or [T, L, E], its steps normalised if asked for.

        Raises:
            InputError: loads, machine and rule do not fit together, or there are several limits of
                traffic.
        """
        from eplb_opt.problem.instance import Instance
        from eplb_opt.problem.topology import Topology

        if (self.redundant is None) == (self.physical is None):
            raise InputError("give the number of slots as one of --redundant and --physical")
        if self.traffic and self.rule != "home":
            raise InputError("--traffic limits what is served off home: give --rule home, too")
        if len(self.traffic) > 1:
            raise InputError("--traffic: give one limit; only gap takes several")
        experts = loads.shape[-1]
        num_slots = self.physical if self.physical is not None else experts + (self.redundant or 0)
        with bad_input(source):
            topology = Topology(num_slots, self.gpus, self.nodes, self.groups)
            if self.rule == "home" and self.groups % self.nodes:
                raise InputError(
                    f"--rule home: every node is home to as many groups, and --groups {self.groups}"
                    f" is no multiple of --nodes {self.nodes}: give the model's groups and a number"
                    " of nodes that divides them"
                )
            if self.rule == "home" and self.nodes == 1:
                said = "--rule home with --nodes 1 is the global rule: every expert is at home"
                click.echo(f"eplb-opt: {said}", err=True)
            rule: Any = self.rule
            limit = next(iter(self.traffic), Fraction(1))
            options = (self.spread_replicas, normalize_steps, limit)
            return Instance(loads, topology, rule, source, *options)


def topology_options(function: Command) -> Command:
    """Adds the options of the machine; the command gets ``topology: TopologyOptions``."""
    options = [
        click.option("--redundant", type=int, help="Redundant experts: slots minus experts."),
        click.option("--physical", type=int, help="Slots in total (instead of --redundant)."),
        click.option("--gpus", type=int, required=True, help="Ranks, one GPU each."),
        click.option("--nodes", type=int, default=1, show_default=True, help="Servers."),
        click.option("--groups", type=int, default=1, show_default=True, help="Expert groups."),
        click.option(
            "--rule",
            type=click.Choice(["auto", "global", "hierarchical", "home"]),
            default="auto",
            show_default=True,
            help="Which placements are allowed; auto is hierarchical if --nodes divides --groups; "
            "home: every expert on its group's node, further replicas anywhere.",
        ),
        click.option(
            "--traffic",
            multiple=True,
            callback=parse_traffic,
            metavar="PART",
            help="With --rule home: the part of a layer's tokens that may be served off home, 0 to "
            "1; gap takes several, for a frontier.",
        ),
        click.option("--spread-replicas", is_flag=True, help="No expert twice on one rank."),
    ]

    names = tuple(TopologyOptions.__dataclass_fields__)

    @functools.wraps(function)
    def command(**arguments: Any) -> Any:
        topology = TopologyOptions(**{name: arguments.pop(name) for name in names})
        return function(topology=topology, **arguments)

    return _with(options, command)


def instance_options(function: Command, *, several_limits: bool = False) -> Command:
    """Adds LOADS and the options of the machine; the command gets ``instance: Instance``.

    With ``several_limits`` it also gets ``traffic: tuple[Fraction, ...]``, the limits of traffic as
    they were given; the instance has the first.
    """
    options = [
        click.argument("loads", type=click.Path(path_type=Path), callback=readable),
        click.option("--layers", callback=parse_layers, help="Only these layers, as 0-9,12."),
        click.option(
            "--normalize-steps",
            is_flag=True,
            help="Scale the steps of each layer to equal totals, so that they weigh alike.",
        ),
    ]

    @functools.wraps(function)
    def command(
        *,
        loads: Path,
        layers: Sequence[int] | None,
        normalize_steps: bool,
        format: str | None,
        steps: Steps | None,
        topology: TopologyOptions,
        **rest: Any,
    ) -> Any:
        from eplb_opt.io import read_loads

        with bad_input(str(loads)):
            recorded = read_loads(loads, format=format, steps=steps)
        if normalize_steps and recorded.loads.ndim == 2:
            raise InputError(
                f"--normalize-steps: {loads} holds [layers, experts], and steps are needed: give a "
                "trace [steps, layers, experts]"
            )
        if several_limits:
            rest["traffic"] = topology.traffic
            topology = replace(topology, traffic=topology.traffic[:1])
        instance = topology.instance(recorded.loads, str(loads), normalize_steps)
        if layers is not None:
            with bad_input(str(loads)):
                instance = instance.select(layers)
        return function(instance=instance, **rest)

    return _with(options, reading_options(topology_options(command)))


def reading_options(function: Command) -> Command:
    """Adds the options for reading a file of loads."""
    formats = ["json", "npy", "npz", "csv", "pt", "safetensors"]
    options = [
        click.option("--format", type=click.Choice(formats), help="Default: by the content."),
        click.option(
            "--steps", callback=parse_steps, metavar="A:B", help="Only these steps of a trace."
        ),
    ]
    return _with(options, function)


def read_one_placement(source: Path, policy: str | None) -> tuple[str, NDArray[np.int64]]:
    """Name and map [L, P] of the placement in a file that ``--policy`` chooses, or the only one.

    Raises:
        InputError: there are several, or none of that name.
    """
    from eplb_opt.io import read_placements

    maps = read_placements(source)
    if policy is None and len(maps) != 1:
        raise InputError(f"{source} holds {', '.join(maps)}: choose one with --policy")
    name = policy if policy is not None else next(iter(maps))
    if name not in maps:
        raise InputError(f"{source} has no placement of {name!r}, but {', '.join(maps)}")
    return name, maps[name]


def search_options(function: Command) -> Command:
    """Adds the limits of exact search; the command gets the ``tolerance`` that holds."""
    options = [
        click.option("--time-limit", type=float, help="Seconds of exact search for each layer."),
        click.option(
            "--tolerance",
            type=Finite(min=0),
            metavar="RATIO",
            help="Search ends at this distance of placement and bound; default 0 up to 24 slots, "
            "else 0.0001.",
        ),
        click.option("--seed", type=SEED, default=0, show_default=True),
        click.option("--workers", type=int, default=1, show_default=True, help="Search threads."),
    ]

    @functools.wraps(function)
    def command(
        *,
        instance: Instance,
        time_limit: float | None,
        tolerance: float | None,
        workers: int,
        **rest: Any,
    ) -> Any:
        from eplb_opt.gap import usual_tolerance

        if time_limit is not None and not time_limit >= 0:
            raise InputError(f"--time-limit {time_limit} must not be negative")
        if workers < 1:
            raise InputError(f"--workers {workers} must be at least 1")
        return function(
            instance=instance,
            time_limit=time_limit,
            tolerance=usual_tolerance(instance) if tolerance is None else Fraction(tolerance),
            workers=workers,
            **rest,
        )

    return _with(options, command)


def cost_options(function: Command) -> Command:
    """Adds ``--objective`` and ``--dispatch``; the command gets ``cost: Cost``, which fits its
    instance.
    """
    options = [
        click.option(
            "--objective",
            default="sum",
            show_default=True,
            metavar="sum|mean|worst|cvar:SHARE",
            help="Over the steps of a trace: the fullest rank of their sum, or the mean, the "
            "largest, or the mean of the worst SHARE of the fullest ranks of each step.",
        ),
        click.option(
            "--dispatch",
            type=click.Choice(["even", "fixed", "optimal"]),
            default="even",
            show_default=True,
            help="How an expert's replicas share its tokens: alike, in parts that fit all steps "
            "best, or in the best parts of each step.",
        ),
    ]

    @functools.wraps(function)
    def command(*, instance: Instance, objective: str, dispatch: str, **rest: Any) -> Any:
        from eplb_opt.problem.objective import Cost

        with bad_input("--objective"):
            cost = Cost.of(objective, dispatch)
        with bad_input():
            cost.objective.check_steps(instance)
        return function(instance=instance, cost=cost, **rest)

    return _with(options, command)


def time_budget_option(seconds: float) -> Callable[[Command], Command]:
    """Adds ``--time-budget`` for all layers together; by default so many ``seconds``, but none
    beside ``--time-limit``.
    """
    option = click.option(
        "--time-budget",
        type=Finite(min=0),
        metavar="SECONDS",
        help=f"Exact search for all layers together, shared by those that are left; default "
        f"{seconds:g}, none if --time-limit is given.",
    )
    return lambda function: _with([option], function)


def json_option(function: Command) -> Command:
    """Adds ``--json FILE|-``, given to the command as ``json_target``."""
    option = click.option(
        "--json",
        "json_target",
        metavar="FILE|-",
        callback=writable,
        help="Also write JSON (- is stdout, no tables).",
    )
    return _with([option], function)


def placements_option(function: Command) -> Command:
    """Adds ``--placements FILE``."""
    option = click.option(
        "--placements",
        metavar="FILE",
        callback=writable,
        help="Write phy2log of each policy (.npz or .json).",
    )
    return _with([option], function)


def _with(options: Sequence[Command], function: Command) -> Command:
    for option in reversed(options):
        function = option(function)
    return function
