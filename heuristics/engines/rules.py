"""Names of policies with a rule behind them, as engines are told: ``refined@home:0.1``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from heuristics.policies import NamedPolicy, placer
from heuristics.shape import RULES, ArgumentError, under_rule


@dataclass(frozen=True)
class RuledPolicy:
    """A policy under a rule, whatever rule the engine would have.

    Attributes:
        policy: what places.
        rule: as of :func:`heuristics.policies.rebalance_experts`; None for the engine's.
        traffic: under ``home`` the part of a layer's tokens that may be served off home.
    """

    policy: NamedPolicy
    rule: str | None = None
    traffic: float = 1.0

    @property
    def takes_steps(self) -> bool:
        """Whether it looks at each step."""
        return self.policy.takes_steps

    def __call__(
        self,
        weight: Tensor,
        num_replicas: int,
        num_groups: int,
        num_nodes: int,
        num_gpus: int,
        old: Tensor | None = None,
    ) -> Tensor:
        """The expert in each slot, [L, P] int64; arguments as of ``rebalance_experts``, and the
        placement until now.
        """
        sizes = num_replicas, num_groups, num_nodes, num_gpus
        return self.policy(weight, *sizes, old, rule=self.rule or "auto", traffic=self.traffic)


def ruled_placer(name: str) -> RuledPolicy:
    """The policy of a name as :func:`heuristics.policies.placer` reads it, which ``@`` and a rule
    may follow, after ``home`` a limit of traffic.

    Raises:
        ValueError: there is no such policy or rule, or the limit is none from 0 to 1.

    Example:
        >>> found = ruled_placer("refined:40@home:0.1")
        >>> found.policy.idea, found.rule, found.traffic
        ('refined, with at most 40 transfers a layer', 'home', 0.1)
    """
    name, at, words = name.partition("@")
    policy = placer(name)
    if not at:
        return RuledPolicy(policy)
    rule, colon, limit = words.partition(":")
    try:
        traffic = float(limit) if colon else 1.0
        under_rule(rule, traffic, 1, 1)
    except ValueError:
        raise ArgumentError(
            f"'@{words}' is not @ and one of {', '.join(RULES)}; after home a part of the tokens "
            "may follow, as in @home:0.1"
        ) from None
    return RuledPolicy(policy, rule, traffic)
