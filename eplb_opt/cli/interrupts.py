"""Being stopped: Ctrl-C (SIGINT) and SIGTERM end the work alike, and what is done is written."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType

import click

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after SIGINT and after SIGTERM."""
ONE_WISH = 1.0
"""Seconds. Terminals, ``timeout`` and wrappers send a signal twice; a second one so soon after the
first says nothing new."""

LATER = 0.02
"""Seconds until a signal is looked at again that cannot be heeded now."""


class _Signals:
    """What came so far, in this process.

    Attributes:
        first: when the first signal came, on the clock of ``time.monotonic``; None before.
        terminated: SIGTERM was among them.
        writing: what is done is being written, and a first signal does not disturb that.
    """

    first: float | None = None
    terminated = False
    writing = False


_signals = _Signals()


def heed_signals() -> None:
    """From here to the end of the process SIGINT and SIGTERM raise ``KeyboardInterrupt``, or do
    what a solver does in its place.

    A process that ignores SIGINT, as those do that a shell starts in the background, goes on to.
    """
    _signals.first, _signals.terminated, _signals.writing = None, False, False
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _on_terminate)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _on_interrupt)
    sys.unraisablehook = _on_unraisable


def _on_interrupt(_number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _in_an_import(frame):
        _interrupt_again()
        return
    if _signals.first is None:
        _signals.first = now
        if not _signals.writing:
            raise KeyboardInterrupt
    elif now - _signals.first > ONE_WISH:
        raise KeyboardInterrupt


def _on_terminate(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C would do now: while CP-SAT searches, that is its own handler."""
    _signals.terminated = True
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else _on_interrupt)(number, frame)


def _on_unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a destructor, or in a callback from C."""
    if lost.exc_type is KeyboardInterrupt:
        _interrupt_again()
    else:
        sys.__unraisablehook__(lost)


def _in_an_import(frame: FrameType | None) -> bool:
    """Modules in C do not bear an exception in there: torch aborts, numpy prints and goes on."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _interrupt_again() -> None:
    """As if the signal came a little later: now it would be lost, or do harm."""
    _signals.first = None
    _thread.start_new_thread(_send_later, ())  # a handler may not take the locks of threading


def _send_later() -> None:
    time.sleep(LATER)
    _thread.interrupt_main(signal.SIGTERM if _signals.terminated else signal.SIGINT)


def keep_results() -> None:
    """From here on what is done is printed and written: only a second signal ends that."""
    _signals.writing = True


def report_interrupt(done: str) -> int:
    """Say on stderr that the work was stopped and what is done; the exit code."""
    click.echo(f"eplb-opt: interrupted: {done}", err=True)
    return TERMINATED if _signals.terminated else INTERRUPTED


def cut_short() -> int:
    """The same where there is no result, or where a second signal came while it was written."""
    missing = "results may be missing" if _signals.writing else "there is no result yet"
    keep_results()
    return report_interrupt(missing)
