"""Programs that misbehave, each in its own way."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time

import torch


def good(weight, num_replicas, *_):
    return torch.arange(num_replicas).remainder(weight.shape[1]).repeat(len(weight), 1)


def raises(*_):
    raise RuntimeError("\x1b[31mfirst line\nsecond line")


def stops_at_nothing(*_):
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass


def loops_in_c(*_):
    ctypes.CDLL(None).sleep(1000)


def leaves(*_):
    os._exit(3)


def exits(*_):
    sys.exit("enough")


def crashes(*_):
    ctypes.string_at(0)


def hogs_numpy(*_):
    import numpy as np

    return np.ones(10**10)


def hogs_torch(*_):
    return torch.ones(10**10)


def hogs_slowly(*_):
    hoard = []
    while True:
        hoard.append(bytearray(5 * 10**7))


def prints(weight, num_replicas, *rest):
    for _ in range(200):
        print("x" * 50_000)
        print("y" * 50_000, file=sys.stderr)
    os.write(1, b"z" * 10**6)
    return good(weight, num_replicas, *rest)


def writes_into_input(weight, num_replicas, *rest):
    weight *= 0
    return good(weight, num_replicas, *rest)


def wrong_shape(weight, num_replicas, *_):
    return torch.zeros(len(weight), num_replicas + 1, dtype=torch.int64)


def nan(weight, num_replicas, *_):
    return torch.full((len(weight), num_replicas), torch.nan)


def strings(weight, num_replicas, *_):
    return [["expert"] * num_replicas] * len(weight)


def nothing(*_):
    return None


def enormous(*_):
    return torch.zeros(1, dtype=torch.int8).expand(2 * 10**9)


def talks_back(*_):
    for fd in range(3, 200):
        try:
            os.write(fd, b"\xff" * 100)
        except OSError:
            continue
    return


def leaves_a_child(weight, num_replicas, *rest):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "eplb-orphan"])
    return good(weight, num_replicas, *rest)


def dies_by_a_signal_without_a_name(*_):
    os.kill(os.getpid(), 40)


def stops_the_clock(weight, num_replicas, *_):
    time.perf_counter = lambda: float("nan")
    return good(weight, num_replicas)


ANSWERS = {
    101: writes_into_input,
    102: wrong_shape,
    103: nan,
    104: strings,
    105: nothing,
    106: prints,
}


def answers_by_load(weight, *rest):
    """What the first load says: one process for all answers that leave it alive."""
    return ANSWERS[int(weight[0, 0])](weight, *rest)
