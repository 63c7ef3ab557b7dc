"""Moving less, exactly: which rank is which, and the fewest received experts for a makespan.

A rank *receives* the experts that it must hold and did not hold (:mod:`eplb_opt.problem.transfer`).
:func:`relabel` writes a placement down so that the fewest experts are received.
:func:`fewest_moves` proves how few receives a makespan limit needs, by exhaustive search in
integers (:mod:`solvers.migration.move_search`) and beyond it by a mixed-integer program
(:mod:`solvers.migration.program`).
"""

from solvers.migration.fewest import fewest_moves, pareto
from solvers.migration.relabel import num_received, relabel
from solvers.migration.result import MigrationResult

__all__ = ["MigrationResult", "fewest_moves", "num_received", "pareto", "relabel"]
