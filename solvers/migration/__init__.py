"""Fewer transfers, exactly: which rank is which, and the fewest transfers for a makespan.

A *transfer* sends an expert to a rank that must hold it and did not hold it
(:mod:`eplb_opt.problem.transfer`). :func:`relabel` writes a placement down so that it takes the
fewest. :func:`fewest_transfers` proves how few a makespan limit needs, by exhaustive search in
integers (:mod:`solvers.migration.transfer_search`).
"""

from solvers.migration.fewest import fewest_transfers
from solvers.migration.relabel import relabel, sum_transfers
from solvers.migration.result import MigrationResult

__all__ = ["MigrationResult", "fewest_transfers", "relabel", "sum_transfers"]
