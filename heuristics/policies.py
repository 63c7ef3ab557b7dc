"""The one table of names: of policies, and of stages; and the one reading of them.

The command line, the drop-ins and replays all ask :func:`placer`. No other module of ours depends
on ``published``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial

from torch import Tensor

from heuristics.graphs import GRAPHS, GraphPolicy
from heuristics.grouping import by_total
from heuristics.matching import NoStartError
from heuristics.packing import by_load, lpt, snake
from heuristics.pair_resplit import resplit_pairs
from heuristics.pipeline import Counting, Maps, Pipeline, Placing, maps
from heuristics.published import programs
from heuristics.refined import refined
from heuristics.replication import greedy_replicas
from heuristics.shape import as_loads, sum_over_steps, under_rule
from heuristics.steps import dispatch_aware, robust
from heuristics.steps.even_values import worst_share

Place = Callable[[Tensor, int, int, int, int], Tensor]
"""(weight [L, E], num_replicas, num_groups, num_nodes, num_gpus) -> phy2log [L, P]; the weight of a
policy that takes steps may also be [T, L, E].
"""

Policy = Callable[[Tensor, int, int, int, int], Maps]
"""(weight [L, E] or [T, L, E], and the same sizes) -> the three maps."""

COUNTS: dict[str, Counting] = {"greedy": greedy_replicas, **programs.COUNTS}
PACKINGS: dict[str, Placing] = {"lpt": by_load(lpt), "snake": by_load(snake), **programs.PACKINGS}
REFINEMENTS: dict[str, Placing] = {"pair-resplit": resplit_pairs, **programs.REFINEMENTS}


deepseek = Pipeline(by_total(lpt), greedy_replicas, by_load(lpt))
"""DeepSeek EPLB: LPT of groups to nodes, greedy counts, LPT of replicas to ranks; in float32.

Places what the published program places, slot for slot, on nodes with any load. Ties: equal loads
in the order of their index (the published program leaves the order of equal loads to an unstable
sort).

Reference: https://github.com/deepseek-ai/EPLB
"""


@dataclass(frozen=True)
class NamedPolicy:
    """A policy that a name stands for.

    Attributes:
        place: places all layers anew.
        idea: one line.
        change: how it starts from the placement until now, given as ``old``; None for a policy that
            always places anew.
        knows_home: whether ``place`` and ``change`` take ``traffic``, the limit of the rule
            ``home``; the others place as under the hierarchical rule, with no traffic.
        check: raises ValueError for numbers of experts, slots, groups, nodes and ranks of which it
            has no placement; None for a policy that has one of all.
        objective: what it minimizes over steps: ``sum``, the makespan of their sum, or of the
            makespans of steps the ``mean``, the ``worst``, or ``cvar:A``, the mean of the worst
            share A.
        dispatch: how it takes the tokens of an expert to be shared by its replicas: ``even`` or
            ``optimal``, what a dispatcher does that looks at each step.
    """

    place: Callable[..., Tensor]
    idea: str
    change: Callable[..., Tensor] | None = None
    check: Callable[[int, int, int, int, int], None] | None = None
    objective: str = "sum"
    dispatch: str = "even"
    knows_home: bool = False

    @property
    def takes_steps(self) -> bool:
        """Whether it looks at each step of [T, L, E]; the others get the sum over T."""
        return self.objective != "sum"

    def __call__(
        self,
        weight: Tensor,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_gpus: int,
        old: Tensor | None = None,
        *,
        rule: str = "auto",
        traffic: float = 1.0,
    ) -> Tensor:
        """The expert in each slot, [L, P] int64; arguments as of :func:`rebalance_experts`.

        ``old`` [L, P] is the placement until now. Without one, or where it can be no start (it has
        another width, holds -1, or does not keep groups on their nodes), all policies place anew.
        A single step [1, L, E] says nothing of how steps differ: it is the loads [L, E].

        Raises:
            ValueError: an argument does not fit; the message names it.
        """
        weight = as_loads(weight)
        if weight.ndim == 3 and not (self.takes_steps and len(weight) > 1):
            weight = sum_over_steps(weight)
        sizes = (num_replicas, *under_rule(rule, traffic, num_groups, num_nodes), num_gpus)
        home = {"traffic": traffic} if self.knows_home and rule == "home" and num_nodes > 1 else {}
        if self.change is not None and old is not None:
            with suppress(NoStartError):
                return self.change(weight, *sizes, old=old, **home)
        return self.place(weight, *sizes, **home)


TABLE: dict[str, NamedPolicy] = {
    "deepseek": NamedPolicy(
        deepseek, "the field's baseline: greedy counts, largest replica into the lightest rank"
    ),
    "waterfill-diverse": NamedPolicy(
        programs.waterfill_diverse,
        "water-filled counts, one replica of each expert first, bounded exchanges",
    ),
    "apportion-zigzag": NamedPolicy(
        programs.apportion_zigzag,
        "Huntington-Hill counts, interleaved zigzag packing, bounded exchanges",
    ),
    "vectorized-swap": NamedPolicy(
        programs.vectorized_swap,
        "the baseline, then swaps between the heaviest and the lightest rank",
    ),
    "replica-refine": NamedPolicy(
        programs.replica_refine,
        "vectorized-swap, then a replica moved where that lowers the makespan",
    ),
    "refined": NamedPolicy(
        refined,
        "re-splits, swaps, other groups and counts; never behind deepseek, with P = E nor swaps",
        knows_home=True,
    ),
}
"""The policies for loads [L, E]: what is run where none is named."""


FOR_STEPS: dict[str, NamedPolicy] = {
    "dispatch-aware": NamedPolicy(
        dispatch_aware,
        "the least mean makespan over the steps of a trace; needs a dispatcher",
        objective="mean",
        dispatch="optimal",
        knows_home=True,
    ),
    "robust": NamedPolicy(
        robust,
        "the least mean makespan over the steps of a trace, replicas sharing alike",
        objective="mean",
        knows_home=True,
    ),
}
"""The policies that look at each step, as they are without further words."""

SEARCHES = {"fast": "less", "thorough": "more"}
"""Words for an effort, and how much search that is."""


def _for_steps(base: str, effort: str | None, objective: str | None) -> NamedPolicy:
    """A policy of ``FOR_STEPS`` with an effort and an objective other than the usual ones.

    Raises:
        ValueError: there is no such share of ``cvar``.
    """
    policy, name = FOR_STEPS[base], base
    place: Callable[..., Tensor] = policy.place
    if objective is not None:
        name += f":{objective}"
        part = worst_share(objective)
        steps = f"the worst {100 * part:g} % of the steps" if part else "the worst step"
        idea = f"the least {'mean ' * (part > 0)}makespan of {steps}, replicas sharing alike"
        place = partial(place, objective=objective)
        policy = replace(policy, place=place, idea=idea, objective=objective)
    if effort is not None:
        place = partial(place, effort=effort)
        policy = replace(policy, place=place, idea=f"{name} with {SEARCHES[effort]} search")
    return policy


RELABEL = "relabel"
"""The word for keeping all that can be kept of the placement until now."""

FORMS = {
    "refined": f"refined[:N|:{RELABEL}]",
    "dispatch-aware": f"dispatch-aware[:fast|:thorough][:N|:{RELABEL}]",
    "robust": f"robust[:fast|:thorough][:worst|:cvar:SHARE][:N|:{RELABEL}]",
}
"""The policies that can start from the placement until now, with ``old=`` and ``move_budget=``; and
the words that may follow their name.
"""

KEEPING_NAMES = ", ".join(FORMS.values()) + " (N transfers a layer)"
"""How a message says what words may follow a name."""

MOST_TRANSFERS = 2**31
"""A budget above all slots is none; tensors of integers hold no numbers of any size."""

_KINDS = ("fast|thorough", "worst|cvar:[^:]*", f"{RELABEL}|[0-9]+")
_WORDS = re.compile("".join(f"(?::({kind}))?" for kind in _KINDS))
"""What may follow a name: an effort, an objective, what is kept."""


def _read_words(policy_name: str) -> NamedPolicy:
    """The policy of a name that begins as one of ``FORMS``."""
    base = policy_name.partition(":")[0]
    words = policy_name.removeprefix(base)
    found = _WORDS.fullmatch(words)
    effort, objective, kept = found.groups() if found else (None, None, None)
    if not found or (effort and base == "refined") or (objective and base != "robust"):
        form = f"{FORMS[base]} with N transfers a layer"
        raise ValueError(f"'{policy_name}' is not {form}{_hint(base, words)}")
    try:
        policy = _for_steps(base, effort, objective) if base in FOR_STEPS else TABLE[base]
    except ValueError as error:
        raise ValueError(f"'{policy_name}': {error}") from None
    if kept is None:
        return policy
    name = policy_name.removesuffix(f":{kept}")
    change: Callable[..., Tensor] = policy.place
    if kept == RELABEL:
        idea = f"{name}, written so that experts stay where they are"
        return replace(policy, idea=idea, change=change)
    idea = f"{name}, with at most {kept} transfers a layer"
    budget = min(int(kept), MOST_TRANSFERS)
    return replace(policy, idea=idea, change=partial(change, move_budget=budget))


def _hint(base: str, words: str) -> str:
    """What may be meant by words that do not follow the form of ``base``."""
    given: list[str] = re.findall(":(cvar:[^:]*|[^:]*)", words)
    if "mean" in given and base in FOR_STEPS:
        return f": the mean is what {base} minimizes"
    if {"cvar", "cvar:"} & set(given) and base == "robust":
        return ": cvar takes a share, as in robust:cvar:0.1"
    if base != "robust" and any(re.fullmatch(_KINDS[1], word) for word in given):
        return ": only robust takes an objective"
    known = ["fast", "thorough", "worst", RELABEL]
    meant = [next(iter(get_close_matches(word, known)), word) for word in given]
    order = [next((i for i, kind in enumerate(_KINDS) if re.fullmatch(kind, w)), 3) for w in meant]
    name = ":".join([base, *(word for _, word in sorted(zip(order, meant, strict=True)))])
    follows = _WORDS.fullmatch(name.removeprefix(base))
    return f" (did you mean {name}?)" if follows and name != base + words else ""


STEP_POLICIES: dict[str, NamedPolicy] = {
    name: _read_words(name)
    for name in (
        *("dispatch-aware", "dispatch-aware:fast", "dispatch-aware:thorough"),
        *("robust", "robust:fast", "robust:thorough", "robust:worst", "robust:cvar:0.1"),
    )
}
"""The policies that look at each step, ``cvar`` with a share as an example; their search takes
seconds, and so they are named or not run.
"""


def _along(graph: str) -> NamedPolicy:
    place = GraphPolicy(f"lplb-graph:{graph}", GRAPHS[graph])
    idea = f"LPLB's {graph}: heaviest experts copied to fixed neighbours; needs a dispatcher"
    return NamedPolicy(place, idea, check=place.check, dispatch="optimal")


LPLB_GRAPHS: dict[str, NamedPolicy] = {f"lplb-graph:{graph}": _along(graph) for graph in GRAPHS}
"""Placements along a fixed graph: each of one number of slots only, and so not in ``TABLE``."""

NAMED: dict[str, NamedPolicy] = TABLE | STEP_POLICIES | LPLB_GRAPHS
"""All policies that have a name of their own."""


def compose(name: str) -> Pipeline:
    """The policy that ``counts + packing [+ refinement ..]`` names, groups to nodes by LPT.

    Raises:
        ValueError: fewer than two stages, or a name that does not exist.
    """
    stages = [stage.strip() for stage in name.split("+")]
    if len(stages) < 2:
        raise ValueError(f"policy={name!r} does not name a counts rule and a packing, joined by +")
    _check_known("counts rule", stages[0], COUNTS)
    _check_known("packing", stages[1], PACKINGS)
    for stage in stages[2:]:
        _check_known("refinement", stage, REFINEMENTS)
    refinements = [REFINEMENTS[stage] for stage in stages[2:]]
    return Pipeline(by_total(lpt), COUNTS[stages[0]], PACKINGS[stages[1]], refinements)


def _check_known(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"{kind} {name!r} is not one of {', '.join(known)}")


class UnknownPolicyError(ValueError):
    """There is no policy of such a name."""


def placer(name: str) -> NamedPolicy:
    """The policy of a name.

    A name in ``NAMED``; a form in ``FORMS``, such as ``robust:fast:cvar:0.2:40``, where ``:40``
    starts from the placement until now and receives at most 40 experts a layer, and ``:relabel``
    places anew and keeps what it can where it is; or stages joined by ``+``: a counts rule, a
    packing, and refinements.

    Raises:
        UnknownPolicyError: none of these.
        ValueError: there is no such stage, or no such word after a name in ``FORMS``.

    Example:
        >>> placer("refined:40").idea
        'refined, with at most 40 transfers a layer'
        >>> placer("robust:cvar:0.2").idea
        'the least mean makespan of the worst 20 % of the steps, replicas sharing alike'
        >>> placer("greedy + snake + pair-resplit").idea
        'stages by name'
    """
    if name in NAMED:
        return NAMED[name]
    if "+" in name:
        return NamedPolicy(compose(name), "stages by name")
    if name.partition(":")[0] in FORMS:
        return _read_words(name)
    raise UnknownPolicyError(
        f"policy={name!r} is not one of {', '.join(NAMED)}, {KEEPING_NAMES}, nor stages joined by +"
    )


def with_maps(place: Place, name: str = "policy") -> Policy:
    """The policy, called ``name``, that returns all three maps of what ``place`` places."""

    def policy(
        weight: Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
    ) -> Maps:
        phy2log = place(weight, num_replicas, num_groups, num_nodes, num_gpus)
        return maps(phy2log, weight.shape[-1])

    policy.__name__ = policy.__qualname__ = name
    return policy


POLICIES: dict[str, Policy] = {name: with_maps(policy, name) for name, policy in TABLE.items()}
"""The same with the signature and results of DeepSeek EPLB; reports show their names."""


def rebalance_experts(
    weight: Tensor,
    num_replicas: int,
    num_groups: int,
    num_nodes: int,
    num_gpus: int,
    *,
    policy: str = "refined",
    rule: str = "auto",
    traffic: float = 1.0,
) -> Maps:
    """Place the experts of all layers: the signature and results of DeepSeek EPLB.

    Args:
        weight: [L, E] tokens per logical expert, or [T, L, E] at each step, which all policies but
            those for steps see as their sum; any real dtype, on any device; not changed. On a CPU
            every value is checked to be finite and not negative; elsewhere it must be.
        num_replicas: P, slots in total, a multiple of ``num_gpus`` and at least E.
        num_groups: K, equal contiguous groups of experts.
        num_nodes: N, servers.
        num_gpus: G, ranks in total.
        policy: a name as :func:`placer` reads it: one in ``POLICIES``, or stages such as
            ``huntington-hill + snake + pair-resplit``.
        rule: which placements are allowed: ``auto``, as DeepSeek EPLB does, hierarchical if
            ``num_nodes`` divides ``num_groups``, else global; or one of ``global``,
            ``hierarchical`` and ``home``: every expert has a replica at the home of its group,
            further ones may be on any node. Policies that do not know the last one place
            hierarchically.
        traffic: under ``home`` the part of a layer's tokens that may be served off home, replicas
            sharing alike.

    Returns:
        ``phy2log [L, P]``; ``log2phy [L, E, P - E + 1]``, slots ascending, padded with -1;
        ``logcnt [L, E]``. All int64, on the device of ``weight``.

    Raises:
        ValueError: an argument does not fit; the message names it.

    Example:
        >>> import torch
        >>> phy2log, log2phy, logcnt = rebalance_experts(torch.tensor([[30.0, 10, 20]]), 4, 1, 1, 2)
        >>> phy2log.tolist(), logcnt.tolist()
        ([[2, 1, 0, 0]], [[2, 1, 1]])
    """
    placed = placer(policy)(
        weight, num_replicas, num_groups, num_nodes, num_gpus, rule=rule, traffic=traffic
    )
    return maps(placed, weight.shape[-1])
