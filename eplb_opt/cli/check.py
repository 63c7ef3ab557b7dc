"""``eplb-opt check``: the oracle suite on one policy, or on one dispatcher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.files import policy_files, writable
from eplb_opt.cli.interrupts import keep_results, report_interrupt
from eplb_opt.cli.parameters import Finite
from eplb_opt.cli.policy_options import (
    dispatcher_loaded,
    dispatcher_option,
    policies_loaded,
    policy_limits,
)

if TYPE_CHECKING:
    from eplb_opt.policies.process import Limits
    from eplb_opt.testing.contracts import Finding


@click.command()
@click.argument("policy", metavar="NAME|FILE.py[:FUNCTION]", callback=policy_files)
@click.option(
    "--never-worse-than",
    metavar="POLICY",
    callback=policy_files,
    help="It must lose to this one in no layer.",
)
@click.option(
    "--gap-below",
    type=Finite(min=0),
    help="Largest gap to the proven bound, with --dispatcher to the exact optimum; a ratio.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=writable,
    help="File of gaps that must not rise; written if it is missing.",
)
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=writable,
    help="Write JUnit XML.",
)
@dispatcher_option
@policy_limits
def command(
    policy: str,
    dispatcher: bool,
    never_worse_than: str | None,
    gap_below: float | None,
    baseline: Path | None,
    junit: Path | None,
    limits: Limits,
) -> int:
    """Run every check on a policy: valid placements, an engine's contracts, and quality if asked;
    or with --dispatcher on a dispatcher: valid shares or whole tokens, never above even shares, the
    contracts, and quality if asked, where --never-worse-than names another dispatcher.

    Exit code 1 if a check fails.
    """
    from eplb_opt.testing.contracts import Finding

    findings: list[Finding] = []
    stopped = False
    asked = {"never_worse_than": never_worse_than, "gap_below": gap_below, "baseline": baseline}
    with (_dispatcher_suite if dispatcher else _policy_suite)(policy, limits, asked) as suite:
        try:
            for finding in suite:
                findings.append(finding)
                _tell(finding)
        except KeyboardInterrupt:
            stopped = True
        keep_results()
    failed = sum(bool(finding.message) for finding in findings)
    click.echo(f"{len(findings)} checks, {failed} failed")
    if junit is not None:
        left_out = [Finding("all other checks", "interrupted")] if stopped else []
        write_junit(junit, policy, findings + left_out)
    if stopped:
        return report_interrupt(f"{len(findings)} checks are done, others are not")
    return 1 if failed else 0


@contextmanager
def _policy_suite(
    policy: str, limits: Limits, asked: dict[str, Any]
) -> Iterator[Iterator[Finding]]:
    from eplb_opt.testing.suite import run_suite

    policies = [policy, asked["never_worse_than"] or policy]
    with policies_loaded(policies, limits, or_dispatcher=True) as runner:
        yield run_suite(policy, runner=runner, **asked)


@contextmanager
def _dispatcher_suite(
    dispatcher: str, limits: Limits, asked: dict[str, Any]
) -> Iterator[Iterator[Finding]]:
    from eplb_opt.testing.dispatchers import run_dispatcher_suite

    with dispatcher_loaded(dispatcher, limits) as runner:
        if other := asked["never_worse_than"]:
            with dispatcher_loaded(other, limits):
                pass  # found, before there is work for it
        yield run_dispatcher_suite(dispatcher, runner=runner, limits=limits, **asked)


def _tell(finding: Finding) -> None:
    mark = "FAILED" if finding.message else "ok    "
    said = finding.message or finding.figure
    click.echo(f"{mark} {finding.check}" + f": {said}" * bool(said))


def write_junit(target: Path, policy: str, findings: list[Finding]) -> None:
    """The findings in the format that CI systems read."""
    from xml.etree import ElementTree

    from eplb_opt.io.atomic import replace_file

    failed = sum(bool(finding.message) for finding in findings)
    suite = ElementTree.Element(
        "testsuite", name=f"eplb-opt check {policy}", tests=str(len(findings)), failures=str(failed)
    )
    for finding in findings:
        case = ElementTree.SubElement(suite, "testcase", classname=policy, name=finding.check)
        if finding.message:
            ElementTree.SubElement(case, "failure", message=finding.message)
    replace_file(target, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
