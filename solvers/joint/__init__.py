"""Replica counts and packing decided together."""
