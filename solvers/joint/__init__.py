"""Counts and packing together under the global rule."""
