"""Placements over time: the engines' state machine, replayed on traces or run on real ranks."""
