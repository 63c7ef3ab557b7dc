"""Test oracles for dispatchers: what an answer must be, the named checks, and worst loads."""

from eplb_opt.testing.dispatchers.suite import assert_dispatcher, run_dispatcher_suite

__all__ = ["assert_dispatcher", "run_dispatcher_suite"]
