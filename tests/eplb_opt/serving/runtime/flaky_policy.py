"""Raises, then returns nonsense, then places.

A process that raised is replaced, so a file counts.
"""

from pathlib import Path

from heuristics import policies


def rebalance_experts(weight, *sizes):
    calls = Path("calls")
    number = int(calls.read_text()) if calls.exists() else 0
    calls.write_text(str(number + 1))
    if number == 0:
        raise RuntimeError("first call")
    if number == 1:
        return weight.new_zeros((len(weight), sizes[0])).long()
    return policies.deepseek(weight, *sizes)
