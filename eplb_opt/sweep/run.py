"""Running the tasks of a sweep: in this process, in local workers, or on a dask cluster."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from eplb_opt.sweep.spec import Spec
from eplb_opt.sweep.store import Store
from eplb_opt.sweep.tasks import Task, left, tasks
from eplb_opt.sweep.work import Row, run_task

SweepProgress = Callable[[int, int, int], None]
"""Told how many units are done, how many there are, and how many of those done have failed."""
RETRIES = 3
"""How often a task is tried again on a cluster whose worker died."""


def run_sweep(
    spec: Spec,
    store: Store,
    *,
    workers: int = 1,
    dask: str | None = None,
    progress: SweepProgress = lambda _done, _total, _failed: None,
) -> int:
    """Do what is not in the store; the number of units that failed.

    Rows are appended as their task ends, in any order. Every worker computes with one thread.

    Args:
        spec: the sweep.
        store: open.
        workers: local processes; 1 stays in this one.
        dask: address of a scheduler, in place of local workers.
        progress: called after every task.
    """
    total, failed = len({unit for task in tasks(spec) for unit in task.units}), 0
    todo = left(spec, set(store.done))
    progress(len(store.done), total, failed)
    for found in _results(todo, spec, workers, dask):
        for row in found:
            store.append(row)
            failed += row["status"] != "ok"
        progress(len(store.done), total, failed)
    return failed


def _results(
    todo: Iterator[Task], spec: Spec, workers: int, dask: str | None
) -> Iterator[list[Row]]:
    if dask is not None:
        return _on_cluster(todo, spec, dask)
    if workers == 1:
        return (_single_threaded(task, spec) for task in todo)
    return _in_processes(todo, spec, workers)


def _in_processes(todo: Iterator[Task], spec: Spec, workers: int) -> Iterator[list[Row]]:
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        run = Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch="2 * n_jobs")
        yield from run(delayed(_single_threaded)(task, spec) for task in todo)


def _on_cluster(todo: Iterator[Task], spec: Spec, address: str) -> Iterator[list[Row]]:
    """Few tasks more than threads are in flight, so that neither side holds the whole plan."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ValueError(
            "--dask needs the extra 'cluster': pip install 'eplb-opt[cluster]'"
        ) from None

    with Client(address) as client:
        threads = max(1, sum(client.nthreads().values()))

        def submit(task: Task) -> Any:
            return client.submit(_single_threaded, task, spec, retries=RETRIES, pure=False)

        flying = as_completed([submit(task) for task in itertools.islice(todo, 2 * threads)])
        for future in flying:
            yield future.result()
            for task in itertools.islice(todo, 1):
                flying.add(submit(task))


def _single_threaded(task: Task, spec: Spec) -> list[Row]:
    import torch

    torch.set_num_threads(1)
    return run_task(task, spec)
