"""Stages of the four seed programs, and counts rules beside them; of the named policies only those
that are theirs use them, and whoever composes stages by name.
"""
