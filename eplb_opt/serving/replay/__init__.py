"""Replay: what a policy is worth over time.

>>> from eplb_opt import Instance, Topology
>>> from eplb_opt.serving.state_machine import Settings
>>> trace = [[[9, 1, 1, 1]]] * 8
>>> report = replay(Instance(trace, Topology(6, 2)), ["deepseek"], Settings(4, 4))
>>> [(i.start, i.stop, i.received) for i in report.policies[0].intervals]
[(0, 1, 0), (1, 5, 2), (5, 8, 0)]
"""

from eplb_opt.serving.replay.judge import ReplayInterval
from eplb_opt.serving.replay.replayed import EXPERT_BYTES, Replayed, ReplayReport, replay
from eplb_opt.serving.replay.simulate import Scenario, Trail

__all__ = [
    "EXPERT_BYTES",
    "ReplayInterval",
    "ReplayReport",
    "Replayed",
    "Scenario",
    "Trail",
    "replay",
]
