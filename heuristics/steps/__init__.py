"""Placements for several steps: what ranks pay who wait for each other at every one.

- ``dispatch_aware``: the policy for a dispatcher that looks at each step;
- ``values``: the mean makespans of placements over steps under optimal dispatch;
- ``starts``: constructions that a search starts from, and is never behind;
- ``noise``: steps drawn around loads, where no trace was recorded.
"""

from heuristics.steps.dispatch_aware import dispatch_aware
from heuristics.steps.noise import draw_steps

__all__ = ["dispatch_aware", "draw_steps"]
