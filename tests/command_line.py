"""``eplb-opt`` in this process, or in its own where signals, pipes or devices are tested."""

import contextlib
import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from eplb_opt.cli import main, output

PROGRAM = [sys.executable, "-c", "from eplb_opt.cli import main; main()"]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Done:
    returncode: object
    stdout: str
    stderr: str


@contextlib.contextmanager
def signals_as_before() -> Iterator[None]:
    """The command line heeds signals until its process ends; a test process goes on."""
    handlers, hook = [signal.getsignal(number) for number in SIGNALS], sys.unraisablehook
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)


def eplb_opt(*arguments: object, cwd: Path | None = None) -> Done:
    """Run a command in this process: the same code from ``main`` on, without importing it again."""
    printed, errors = io.StringIO(), io.StringIO()
    code: object = None
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "argv", ["eplb-opt", *map(str, arguments)]),
        mock.patch.object(output, "SPEAK_EVERY", 3600),  # however slow the machine
        signals_as_before(),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return Done(code, printed.getvalue(), errors.getvalue())


def eplb_opt_process(*arguments: object, cwd: Path | None = None) -> Done:
    """Run a command in a process of its own."""
    command = [*PROGRAM, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    return Done(run.returncode, run.stdout, run.stderr)


def heed_interrupts() -> None:
    """A shell lets programs in the background ignore Ctrl-C, and these tests may run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
