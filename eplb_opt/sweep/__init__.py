"""Sweeps: many policies and exact methods on many instances, resumable.

``load`` reads results as a pandas frame; ``read_spec``, ``Store`` and ``run_sweep`` are what
``eplb-opt sweep`` runs.
"""

from eplb_opt.sweep.frame import export, load
from eplb_opt.sweep.run import run_sweep
from eplb_opt.sweep.spec import Spec, SpecError, read_spec
from eplb_opt.sweep.store import Store, StoreError, rows

__all__ = [
    "Spec",
    "SpecError",
    "Store",
    "StoreError",
    "export",
    "load",
    "read_spec",
    "rows",
    "run_sweep",
]
