"""The dispatcher: which replica serves which tokens, decided anew at every step.

A placement fixes where the replicas are; how the tokens of an expert are shared by its replicas is
free. The functions here choose that so that the fullest rank is as light as possible: torch
operations on all layers and steps at once, on any device.

- ``slots``: what a choice means for slots and ranks;
- ``tiles``: the replicated experts of a layer and the ranks that hold them;
- ``interior_point``: the best shares of each step;
- ``fixed``: the best shares for all steps;
- ``whole``: whole tokens for each slot from shares;
- ``tokens``: from the tokens of each slot to the slot of each token;
- ``own``: whole tokens of a source that knows only the common shares;
- ``fused``: shares and whole tokens in one kernel of a GPU, ``kernel`` (Triton, optional);
- ``lplb``, ``drawn``: what engines do, to compare with;
- ``rules``: the table of dispatch rules by name.
"""

from heuristics.dispatch.drawn import drawn, hashed
from heuristics.dispatch.fixed import fixed_shares
from heuristics.dispatch.interior_point import shares
from heuristics.dispatch.lplb import lplb
from heuristics.dispatch.own import own_tokens
from heuristics.dispatch.rules import UnknownDispatcherError, share_rule
from heuristics.dispatch.tokens import expert_counts, physical_ids, tokens_before
from heuristics.dispatch.whole import whole

__all__ = [
    "UnknownDispatcherError",
    "drawn",
    "expert_counts",
    "fixed_shares",
    "hashed",
    "lplb",
    "own_tokens",
    "physical_ids",
    "share_rule",
    "shares",
    "tokens_before",
    "whole",
]
