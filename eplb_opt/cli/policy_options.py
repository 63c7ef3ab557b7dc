"""Options about policies, and finding them before there is work for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from eplb_opt.cli.errors import InputError
from eplb_opt.cli.files import policy_list
from eplb_opt.cli.parameters import Command, Finite

if TYPE_CHECKING:
    from eplb_opt import Instance
    from eplb_opt.policies.dispatchers import DispatcherRunner
    from eplb_opt.policies.process import Limits
    from eplb_opt.policies.runner import PolicyRunner
    from eplb_opt.problem.objective import Cost


def policies_option(
    help: str, default: tuple[str, ...] = ("deepseek",)
) -> Callable[[Command], Command]:
    """Adds ``--policy``, one or several, as ``policies``."""
    return click.option(
        "--policy",
        "policies",
        multiple=True,
        default=default,
        show_default=bool(default),
        metavar="NAME|FILE.py[:FUNCTION]",
        callback=policy_list,
        help=help,
    )


@contextmanager
def policies_loaded(
    policies: Iterable[str],
    limits: Limits | None = None,
    instance: Instance | None = None,
    *,
    or_dispatcher: bool = False,
) -> Iterator[PolicyRunner]:
    """What runs the policies, with all of them found and users' files imported.

    Args:
        policies: their names.
        limits: of users' files.
        instance: which they shall place.
        or_dispatcher: with ``--dispatcher`` the command would take dispatchers.

    Raises:
        InputError: one does not exist, cannot be imported, is no policy, or has no placement of the
            sizes of ``instance``.
    """
    from eplb_opt.policies.names import PolicyError, is_user_file, load_policy
    from eplb_opt.policies.runner import PolicyRunner

    with PolicyRunner(limits) as runner:
        for policy in policies:
            try:
                runner.load(policy)
                if instance is not None and not is_user_file(policy):
                    load_policy(policy).check_sizes(instance)
            except PolicyError as error:
                hint = "; for a dispatcher, add --dispatcher" * or_dispatcher
                raise _not_loaded("policy", policy, error, hint) from error
        yield runner


def tell_other_costs(
    policies: Iterable[str],
    runner: PolicyRunner,
    asked: Cost,
    seen: Instance,
    served: Instance | None = None,
) -> None:
    """A line on stderr for each policy that is ranked by another cost than it is made for.

    Args:
        policies: their names.
        runner: which has run them.
        asked: by which they are ranked.
        seen: what they placed.
        served: what the placements are measured on, if that is something else.
    """
    from eplb_opt.problem.objective import SUM, Dispatch

    placed, measured = (
        1 if instance.trace is None else len(instance.trace) for instance in (seen, served or seen)
    )
    for policy, made in _costs(policies, runner):
        options = []
        if made.objective != SUM and asked.objective == SUM and measured > 1:
            options.append(f"--objective {made.objective}")
        if made.dispatch == Dispatch.OPTIMAL != asked.dispatch:
            options.append(f"--dispatch {made.dispatch}")
        if options:
            said = f"is made for another cost than it is ranked by: give {' '.join(options)}"
            click.echo(f"eplb-opt: {policy} {said}", err=True)
    if placed == 1:
        tell_single_step(policies, runner, f"{seen.source} holds one")
    _tell_without_start(policies)
    if seen.rule == "home":
        _tell_hierarchical(policies)


def _tell_without_start(policies: Iterable[str]) -> None:
    """A line on stderr for each policy made to start from a placement, of which there is none."""
    from eplb_opt.policies.names import PolicyError, is_user_file, load_policy

    for policy in dict.fromkeys(policies):
        with suppress(PolicyError):
            if (
                is_user_file(policy)
                or getattr(load_policy(policy).function, "change", None) is None
            ):
                continue
            said = "starts from the placement until now, of which there is none here: placed anew"
            click.echo(f"eplb-opt: {policy} {said} (migrate and replay have one)", err=True)


def _tell_hierarchical(policies: Iterable[str]) -> None:
    """A line on stderr for each policy that is not told of the rule ``home``."""
    from eplb_opt.policies.names import PolicyError, is_user_file, load_policy

    for policy in dict.fromkeys(policies):
        with suppress(PolicyError):
            known = not is_user_file(policy) and load_policy(policy).function
            if not getattr(known, "knows_home", False):
                said = "is not told of the rule home, and places as under the hierarchical one"
                click.echo(f"eplb-opt: {policy} {said}", err=True)


def tell_single_step(policies: Iterable[str], runner: PolicyRunner, why: str) -> None:
    """A line on stderr for each policy that is made for several steps and was given one."""
    from eplb_opt.problem.objective import SUM

    for policy, made in _costs(policies, runner):
        if made.objective != SUM:
            click.echo(f"eplb-opt: {policy} is made for several steps, and {why}", err=True)


def _costs(policies: Iterable[str], runner: PolicyRunner) -> Iterator[tuple[str, Cost]]:
    """What each policy minimizes; one that fails now is left out, for the table says why."""
    from eplb_opt.policies.names import PolicyError

    for policy in dict.fromkeys(policies):
        with suppress(PolicyError):
            yield policy, runner.cost_of(policy)


@contextmanager
def dispatcher_loaded(dispatcher: str, limits: Limits | None = None) -> Iterator[DispatcherRunner]:
    """What calls the dispatcher, with it found and a user's file imported.

    Raises:
        InputError: it does not exist, cannot be imported, or is no dispatcher.
    """
    from eplb_opt.policies.dispatchers import DispatcherRunner
    from eplb_opt.policies.names import PolicyError

    with DispatcherRunner(dispatcher, limits) as runner:
        try:
            runner.load()
        except PolicyError as error:
            raise _not_loaded("dispatcher", dispatcher, error) from error
        yield runner


def _not_loaded(kind: str, name: str, error: Exception, hint: str = "") -> InputError:
    """An error that names the program, if the message does not."""
    message = str(error)
    named = name.partition(":")[0] in message
    return InputError((message if named else f"{kind} {name}: {message}") + hint)


def dispatcher_option(function: Command) -> Command:
    """Adds ``--dispatcher``."""
    option = click.option(
        "--dispatcher",
        is_flag=True,
        help="The argument names what shares the tokens of a step, not a policy: even, sweeps[:N], "
        "lplb[:N], or FILE.py[:FUNCTION] with FUNCTION(loads, phy2log, num_ranks).",
    )
    return option(function)


UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30}


def parse_memory(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """``4GB``, ``500MB``: bytes, in powers of 1024."""
    number, unit = value.strip().upper()[:-2], value.strip().upper()[-2:]
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise click.BadParameter(f"{value!r} is not a size such as 4GB or 500MB")
    return size


def policy_limits(function: Command) -> Command:
    """Adds the limits of user programs; the command gets ``limits: isolation.Limits``."""

    @click.option(
        "--policy-timeout",
        type=Finite(min=0, min_open=True),
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="For each call of a policy in a file, and for its import.",
    )
    @click.option(
        "--policy-memory",
        default="4GB",
        show_default=True,
        callback=parse_memory,
        metavar="SIZE",
        help="What a policy in a file may allocate.",
    )
    @functools.wraps(function)
    def wrapper(*args: Any, policy_timeout: float, policy_memory: int, **kwargs: Any) -> Any:
        from eplb_opt.policies.process import Limits

        return function(*args, limits=Limits(policy_timeout, policy_memory), **kwargs)

    return wrapper
