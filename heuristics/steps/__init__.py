"""Placements for several steps: what ranks pay who wait for each other at every one.

- ``dispatch_aware``: the policy for a dispatcher that looks at each step;
- ``starts``: constructions that its search starts from, and is never behind;
- ``annealing``: the search; ``proposals``: what prices recommend to change; ``trials`` of that;
- ``values``: steps under optimal dispatch, makespans and prices; ``pushes``, the same compiled;
- ``robust``: the policy for even dispatch; ``even_values``: what placements cost then;
- ``home_units``: tokens off home, in the searches of both under the rule ``home``;
- ``noise``: steps drawn around loads, where no trace was recorded.
"""

from heuristics.steps.dispatch_aware import dispatch_aware
from heuristics.steps.noise import draw_steps
from heuristics.steps.robust import robust

__all__ = ["dispatch_aware", "draw_steps", "robust"]
