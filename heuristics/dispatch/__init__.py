"""The dispatcher: which replica serves which tokens, decided anew at every step.

A placement fixes where the replicas are; how the tokens of an expert are shared by its replicas is
free. The functions here choose that so that the fullest rank is as light as possible: torch
operations on all layers and steps at once, on any device.

- ``slots``: what a choice means for slots and ranks;
- ``tiles``: the replicated experts of a layer and the ranks that hold them;
- ``interior_point``: the best shares of each step;
- ``fixed``: the best shares for all steps;
"""

from heuristics.dispatch.fixed import fixed_shares
from heuristics.dispatch.interior_point import shares

__all__ = ["fixed_shares", "shares"]
