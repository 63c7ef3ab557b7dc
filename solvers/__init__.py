"""Exact optimization of expert placement: every stage and the joint problem, with proven bounds."""
