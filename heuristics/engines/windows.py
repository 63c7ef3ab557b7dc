"""The loads of the last windows of an engine that hands over one window at a time."""

from __future__ import annotations

import threading
from collections import deque

import torch
from torch import Tensor


class Windows:
    """The last windows [L, E] of each model in a process, by L and E.

    All ranks place for themselves and must find the same, and a rank that joins remembers nothing;
    therefore a model's windows are forgotten when its slots or ranks change, by an idle window too.
    Models of equal L and E would share their windows. May be used by several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_model: dict[tuple[int, ...], tuple[tuple[int, int], deque[Tensor]]] = {}

    def add(self, weight: Tensor, machine: tuple[int, int], most: int) -> Tensor:
        """The last windows of a model, the newest last, [T, L, E] with T <= ``most``.

        A window that says nothing of the experts, all zero (an engine that idles or measures its
        memory) or all equal (what stands for loads before there are any), is not remembered; it is
        returned, [L, E], where nothing else is.

        Args:
            weight: [L, E] loads of the newest window; not kept itself.
            machine: P and G.
            most: how many windows are remembered.
        """
        model, nothing = tuple(weight.shape), deque[Tensor]()
        with self._lock:
            known, past = self._by_model.get(model, (machine, nothing))
            past = deque(past if known == machine else nothing, maxlen=most)
            if not bool((weight == weight[:1, :1]).all()):
                past.append(weight.detach().clone())
            self._by_model[model] = machine, past
            return torch.stack(list(past)) if past else weight
