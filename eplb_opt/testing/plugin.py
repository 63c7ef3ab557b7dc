"""The pytest plugin: fixtures for tests of policies, and ``--eplb-policy`` for the whole suite.

Without the option it only offers fixtures; nothing is imported before one is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from eplb_opt.problem.instance import Instance

CACHE = "eplb-opt/optimal"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("eplb-opt", "placement policies (eplb-opt)")
    group.addoption("--eplb-policy", metavar="FILE.py[:FUNCTION]", action="append", default=[],
                    help="run the oracle suite on this policy")  # fmt: skip
    group.addoption("--eplb-never-worse-than", metavar="POLICY", help="also compare with this one")
    group.addoption("--eplb-gap-below", type=float, help="largest gap to the proven bound, a ratio")
    group.addoption("--eplb-baseline", metavar="FILE", help="gaps must not rise above this file's; "
                    "written if it is missing")  # fmt: skip


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the suite of each policy to what is run."""
    items += [item for name in config.getoption("--eplb-policy") for item in _suite(session, name)]


def _suite(session: pytest.Session, name: str) -> Iterator[pytest.Item]:
    yield PolicyItem.from_parent(session, name=f"eplb-opt check {name}", policy=name)


class PolicyItem(pytest.Item):
    """All checks on one policy; a failure lists every finding."""

    def __init__(self, *, policy: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.policy = policy

    def runtest(self) -> None:
        """Run the suite."""
        from eplb_opt.testing.suite import run_suite

        option = self.config.getoption
        baseline = option("--eplb-baseline")
        findings = run_suite(
            self.policy,
            never_worse_than=option("--eplb-never-worse-than"),
            gap_below=option("--eplb-gap-below"),
            baseline=Path(baseline) if baseline else None,
        )
        failed = [finding for finding in findings if finding.message]
        if failed:
            raise AssertionError("\n".join(f"{f.check}: {f.message}" for f in failed))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]
        """The findings alone; the way there is of no interest."""
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the policy stands."""
        return Path(self.policy.partition(":")[0]), None, self.name


@pytest.fixture(scope="session")
def small_instances() -> list[Instance]:
    """Instances that an exact method solves at once."""
    from eplb_opt.testing import suite

    return suite.small_instances()


@pytest.fixture(scope="session")
def full_scale_instances() -> list[Instance]:
    """Sizes as in production, generated loads."""
    from eplb_opt.testing import suite

    return suite.full_scale_instances()


@pytest.fixture
def optimal(request: pytest.FixtureRequest) -> Callable[[Instance], list[float]]:
    """The proven optimal makespan of each layer; pytest's cache keeps it by content."""
    cache = request.config.cache

    def solved(instance: Instance, time_limit: float = 60.0) -> list[float]:
        from solvers import solve

        machine = instance.topology
        content = [instance.loads.tolist(), str(machine), str(instance.rule),
                   instance.spread_replicas, str(instance.traffic_limit)]  # fmt: skip
        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        known = cache.get(f"{CACHE}/{key}", None) if cache else None
        if known is None:
            results = [solve(layer, time_limit=time_limit) for layer in instance.layers()]
            if results[-1].limit == "interrupt":
                raise KeyboardInterrupt
            open_layers = [i for i, r in enumerate(results) if r.status != "optimal"]
            if open_layers:
                pytest.fail(f"layers {open_layers} were not solved in {time_limit:g} s")
            known = [float(r.objective) for r in results if r.objective is not None]
            if cache:
                cache.set(f"{CACHE}/{key}", known)
        return list(known)

    return solved
