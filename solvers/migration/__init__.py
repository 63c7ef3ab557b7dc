"""Moving less, exactly: which rank is which, and the fewest received experts for a makespan.

A rank *receives* the experts that it must hold and did not hold (:mod:`eplb_opt.problem.transfer`).
:func:`relabel` writes a placement down so that the fewest experts are received.
:func:`fewest_transfers` proves how few receives a makespan limit needs, by exhaustive search in
integers (:mod:`solvers.migration.transfer_search`) and beyond it by a mixed-integer program
(:mod:`solvers.migration.program`).
"""

from solvers.migration.fewest import fewest_transfers, pareto
from solvers.migration.relabel import relabel, sum_transfers
from solvers.migration.result import MigrationResult

__all__ = ["MigrationResult", "fewest_transfers", "pareto", "relabel", "sum_transfers"]
