"""Test oracles for dispatchers: what an answer must be, the named checks, and worst loads."""

from eplb_opt.testing.dispatchers.exact import Served, measure_dispatch
from eplb_opt.testing.dispatchers.suite import assert_dispatcher, run_dispatcher_suite

__all__ = ["Served", "assert_dispatcher", "measure_dispatch", "run_dispatcher_suite"]
