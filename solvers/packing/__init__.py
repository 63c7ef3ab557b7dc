"""Packing with the counts given: P||Cmax with identical items and exactly S items on each rank."""
