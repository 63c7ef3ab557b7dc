"""Exact optimization of expert placement: every stage and the joint problem, with proven bounds."""

from solvers.api import BACKENDS, Stages, solve

__all__ = ["BACKENDS", "Stages", "solve"]
