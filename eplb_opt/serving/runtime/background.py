"""Layers that arrive while the model computes: a thread, a buffer for one layer, and a lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from eplb_opt.serving.runtime.weights import Change

Rows = dict[int, list[Tensor]]


class Background:
    """Fills the buffer with one layer after the other; the next one when the last was taken.

    The thread only reads weights: those of a layer are written by the main thread, in
    :meth:`take`'s caller, before the buffer is free for the next.
    """

    def __init__(self, layers: Sequence[Change], fill: Callable[[int, Change], Rows]) -> None:
        """Start to ``fill(number, layer)``."""
        self._layers, self._fill = layers, fill
        self._changed = threading.Condition()
        self._ready: tuple[int, Rows] | None = None
        self._taken = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="eplb-transfer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for number, layer in enumerate(self._layers):
                with self._changed:
                    while self._taken < number:
                        self._changed.wait()
                rows = self._fill(number, layer)
                with self._changed:
                    self._ready = number, rows
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def layer(self, number: int) -> Change:
        """What is to be done to a layer."""
        return self._layers[number]

    def state(self, number: int) -> int:
        """1 if the layer is in the buffer, 0 if not yet, -1 if it will not come."""
        with self._changed:
            if self.error is not None:
                return -1
            return int(self._ready is not None and self._ready[0] == number)

    def wait(self, number: int, timeout: float) -> int:
        """:meth:`state`, when it is not 0 any more; -1 after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.error is not None or self._ready is not None, timeout
            )
        return self.state(number) or -1

    def take(self, use: Callable[[Rows], Any]) -> None:
        """Use the layer in the buffer; then the next may come."""
        with self._changed:
            if self._ready is None:
                raise RuntimeError("there is no layer in the buffer")
            use(self._ready[1])
            self._ready = None
            self._taken += 1
            self._changed.notify_all()
