"""Evidence for a lower bound: what :mod:`eplb_opt.certificate` checks from the loads alone."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar


@dataclass(frozen=True)
class ClosedForm:
    """The bound follows from an argument of :mod:`eplb_opt.bounds`."""

    kind: ClassVar[str] = "closed-form"


CLOSED_FORM = ClosedForm()


@dataclass(frozen=True)
class Exhaustive:
    """Nothing below the bound: a search small enough to be done again."""

    kind: ClassVar[str] = "exhaustive"


@dataclass(frozen=True)
class Pattern:
    """Prices of replicas under which no mix of rank patterns stays below ``bound`` tokens.

    Attributes:
        bound: tokens.
        grid: weights are multiples of ``bound / grid``.
        count_price: what every replica is worth besides.
        levels: where the price changes, (weight, price) by ascending weight.
    """

    kind: ClassVar[str] = "pattern"
    bound: Fraction
    grid: int
    count_price: int
    levels: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Trusted:
    """A solver's word: nothing to check."""

    kind: ClassVar[str] = "trusted"
    solver: str


@dataclass(frozen=True)
class BlockBound:
    """A node that takes ``groups`` has a makespan of at least ``bound`` tokens."""

    groups: tuple[int, ...]
    bound: Fraction
    evidence: Evidence


@dataclass(frozen=True)
class Groups:
    """Every partition of the groups has a block that reaches the bound.

    Blocks that are not named have their closed-form bound.
    """

    kind: ClassVar[str] = "groups"
    blocks: tuple[BlockBound, ...]


@dataclass(frozen=True)
class StepBlock:
    """The loads of ``steps``, summed, cost at least ``bound`` tokens under every placement."""

    steps: tuple[int, ...]
    bound: Fraction
    evidence: Evidence


@dataclass(frozen=True)
class Blocks:
    """A maximum of sums is at most the sum of the maxima: of disjoint blocks of steps the bounds
    add up. Steps in no block cost at least 0.

    They prove the objective of T numbers: for each step the bound of its block over the number of
    steps in it. For ``mean`` that is the sum of the blocks' bounds / T. If every block is one step
    this is the wait-and-see bound, which holds against every policy that moves experts between
    steps, too.
    """

    kind: ClassVar[str] = "blocks"
    blocks: tuple[StepBlock, ...]


@dataclass(frozen=True)
class OnePartition:
    """Hierarchical rule: whichever groups a node takes at all steps, closed forms of the worst node
    at each step reach the bound.
    """

    kind: ClassVar[str] = "one-partition"


ONE_PARTITION = OnePartition()


@dataclass(frozen=True)
class SameRank:
    """``even`` and ``fixed`` dispatch: the formula of :mod:`eplb_opt.bounds.same_rank`.

    Attributes:
        steps: [T] weights of the steps, which the objective admits in parts of their sum.
        prices: for each step (expert, price) pairs, in the same parts; they sum to no more than
            the step's weight.
        floors: [T] tokens that each step costs at least, by a closed form.
        factors: F [E, r] in load units, times the root of the sum of ``steps``.
    """

    kind: ClassVar[str] = "same-rank"
    steps: tuple[int, ...]
    prices: tuple[tuple[tuple[int, int], ...], ...]
    floors: tuple[Fraction, ...]
    factors: tuple[tuple[int, ...], ...]


Evidence = ClosedForm | Exhaustive | Pattern | Trusted | Groups | Blocks | OnePartition | SameRank


@dataclass(frozen=True)
class Cuts:
    """Under ``optimal`` dispatch a placement costs no less than claimed.

    Attributes:
        ranks: for each step a set U of ranks, ascending. In step t all experts whose ranks are all
            in U have ``makespan_t * |U|`` tokens together. () for a step without load.
    """

    kind: ClassVar[str] = "cuts"
    ranks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LimitedCuts:
    """Under ``optimal`` dispatch and a limit X of traffic a placement costs no less than claimed.

    In step t, of W tokens, ``makespan_t * sum of rho_g >= sum over e of w_e min over the ranks g of
    e of (lambda away[e, g] + rho_g) - lambda X W``, with away[e, g] = 1 where g is off e's home.

    Attributes:
        prices: for each step rho [G], not negative. The step's makespan is at least 0 where they
            are all 0.
        traffic_prices: for each step lambda, not negative.
    """

    kind: ClassVar[str] = "limited-cuts"
    prices: tuple[tuple[int, ...], ...]
    traffic_prices: tuple[int, ...]


@dataclass(frozen=True)
class Prices:
    """Under ``fixed`` dispatch no shares make a placement cost less than ``bound`` tokens.

    With prices ``p[t, g] = prices[t][g] / scale >= 0`` of a token on rank g at step t, whose sums
    over g are weights that the objective admits, it costs at least ``sum over e of min over the
    ranks g of e of sum over t of p[t, g] w[t, e]``. Under a limit X of traffic every token off home
    has the price ``traffic_price / scale >= 0`` besides, and X times all tokens, at that price, are
    taken off.
    """

    kind: ClassVar[str] = "prices"
    scale: int
    prices: tuple[tuple[int, ...], ...]
    bound: Fraction
    traffic_price: int = 0


ValueEvidence = Cuts | LimitedCuts | Prices
