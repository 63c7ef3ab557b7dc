"""Policies by name: the built-in ones, and a user's own program."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.problem.instance import Instance
from eplb_opt.problem.objective import EVEN_SUM, Cost
from eplb_opt.problem.placement import Placement
from eplb_opt.problem.shown import printable
from eplb_opt.problem.topology import Rule
from eplb_opt.problem.validity import find_violations

AnyPolicy = str | Callable[..., Any]
"""A name, as :func:`load_policy` reads it, or a function."""

Slots = NDArray[np.int64]
"""[L, P], the logical expert in each slot."""

DEFAULT_FUNCTION = "rebalance_experts"

TAKES_STEPS = "takes_steps"
"""The attribute of a function that looks at steps."""

USER_MODULE = "eplb_opt_policy_"
"""How the names of modules begin that users' files are."""


class PolicyError(Exception):
    """A policy could not be loaded or run; the message is one line."""


class InvalidPlacementError(PolicyError):
    """A policy ran, but what it returned is no valid placement; the message is one line."""


class PolicyTimeoutError(PolicyError):
    """A policy did not answer in time; the message is one line."""


MOST_CALLS, CALL_SECONDS = 5, 0.5
"""A policy is called again until so many calls are made or so many seconds are spent on them."""
FIRST_CALL_SECONDS = 10.0
"""A first call up to so long may have compiled, so that a second one tells how long it takes."""


def enough_calls(seconds: Sequence[float]) -> bool:
    """Whether these calls tell how long a policy takes."""
    if len(seconds) == 1 and seconds[0] < FIRST_CALL_SECONDS:
        return False
    return len(seconds) >= MOST_CALLS or sum(seconds) >= CALL_SECONDS


@dataclass(frozen=True)
class Run:
    """What a policy placed at its first call, and the seconds of its calls, for all layers at once.

    Attributes:
        placement: valid.
        runtime: median of the calls after the first; of the first, if that is the only one.
        first_call: the first call may load and compile.
        import_time: of a user's file; None for a built-in policy.
    """

    placement: Placement
    runtime: float
    first_call: float
    import_time: float | None = None

    @staticmethod
    def of(
        placement: Placement,
        first: float,
        further: Sequence[float],
        import_time: float | None = None,
    ) -> Run:
        """The run of a first call and further ones."""
        return Run(placement, median(further or [first]), first, import_time)


@dataclass(frozen=True)
class Policy:
    """A named way to make a placement.

    Attributes:
        name: as the user gave it.
        function: ``(weight, num_replicas, num_groups, num_nodes, num_gpus)``, in DeepSeek EPLB's
            meaning; a sixth argument without default is given vLLM's old placement, or None. With
            the attribute ``takes_steps = True`` its weight is the steps [T, L, E], T = 1 without a
            trace; else their sum [L, E]. (Of built-in policies that take steps ``dispatch-aware``
            draws them around a single one, ``robust`` places it as ``refined`` does.)
        built_in: of ``heuristics``; always given the old placement.
    """

    name: str
    function: Callable[..., Any]
    built_in: bool = False

    @property
    def takes_steps(self) -> bool:
        """Whether the function looks at the steps of a trace."""
        return getattr(self.function, TAKES_STEPS, False) is True

    @property
    def cost(self) -> Cost:
        """What it minimizes: the makespan of the summed loads; if it takes steps the mean of their
        makespans, or what the function's attributes ``objective`` and ``dispatch`` say.

        Raises:
            ValueError: there is no such objective or dispatch.
        """
        if not (self.built_in or self.takes_steps):
            return EVEN_SUM
        objective = getattr(self.function, "objective", "mean")
        return Cost.of(objective, getattr(self.function, "dispatch", "even"))

    def call(
        self, weight: Any, sizes: Sequence[int], old: Any = None, traffic: float | None = None
    ) -> Any:
        """What the function returns for loads (a tensor) and ``sizes`` as in :func:`arguments`.

        ``old`` is the placement until now, a tensor [L, P], if there is one; ``traffic`` the limit
        of the rule ``home`` (None: another rule), which only built-in policies are told: all others
        place as under the hierarchical rule. Loads [L, E] are one step for a function that takes
        steps.
        """
        if self.takes_steps and weight.ndim == 2:
            weight = weight[None]
        takes_old = self.built_in or _required_arguments(self.function) > 1 + len(sizes)
        home = {"rule": "home", "traffic": traffic} if self.built_in and traffic is not None else {}
        return self.function(weight, *sizes, *([old] if takes_old else []), **home)

    def check_sizes(self, instance: Instance) -> None:
        """Find out before there is work whether the policy has placements of such sizes at all.

        Raises:
            PolicyError: a built-in one has none; the message says what would fit.
        """
        check = getattr(self.function, "check", None)
        if self.built_in and check is not None:
            try:
                check(instance.num_logical_experts, *sizes_of(instance))
            except ValueError as error:
                raise PolicyError(str(error)) from None

    def run(self, instance: Instance, old: Slots | None = None, *, once: bool = False) -> Run:
        """Place all layers of ``instance`` in this process, check the answer, and time it.

        ``old`` [L, P] is the placement until now. The function is called several times for a steady
        time, or once.

        torch works with one thread meanwhile: the tensors are small, and on a busy machine two
        threads that wait for each other took 30 times as long. What the policy prints goes to
        stderr.

        Raises:
            InvalidPlacementError: the answer is no placement, or breaks a rule of the instance.
            PolicyError: the policy raised an exception.
        """
        import torch

        loads, sizes = arguments(instance, self.takes_steps)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        placement, seconds = None, list[float]()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                while placement is None or not (once or enough_calls(seconds)):
                    weight = torch.from_numpy(loads.copy())
                    before = None if old is None else torch.tensor(old)
                    start = time.perf_counter()
                    answer = self.call(weight, sizes, before, home_limit(instance))
                    seconds.append(time.perf_counter() - start)
                    placement = placement or check_placement(answer, instance)
        except PolicyError:
            raise
        except (Exception, SystemExit) as error:
            raise PolicyError(one_line(error)) from error
        finally:
            torch.set_num_threads(threads)
        return Run.of(placement, seconds[0], seconds[1:])


def arguments(instance: Instance, takes_steps: bool = False) -> tuple[Any, list[int]]:
    """What a policy is called with: loads [L, E] in float32, as serving engines give them, or the
    steps [T, L, E], and the number of slots, groups, nodes and ranks; one group and one node under
    the global rule.

    Raises:
        PolicyError: float32 does not hold the loads.
    """
    with np.errstate(over="ignore"):
        largest = float(instance.loads.sum(axis=1, dtype=np.float64).max())
    if largest > float(np.finfo(np.float32).max):
        raise PolicyError(
            f"the loads of a layer sum to {largest:g}, and policies see them in float32: divide "
            "them by a common factor"
        )
    loads = instance.loads
    if takes_steps:
        loads = loads[None] if instance.trace is None else instance.trace
    return np.array(loads, dtype=np.float32), sizes_of(instance)


def sizes_of(instance: Instance) -> list[int]:
    """Numbers of slots, groups, nodes and ranks as policies get them."""
    topology = instance.topology
    by_nodes = instance.rule != Rule.GLOBAL
    return [
        topology.num_physical_experts,
        topology.num_groups if by_nodes else 1,
        topology.num_nodes if by_nodes else 1,
        topology.num_ranks,
    ]


def home_limit(instance: Instance) -> float | None:
    """The limit of traffic as policies get it; None under another rule than ``home``."""
    return float(instance.traffic_limit) if instance.rule == Rule.HOME else None


def is_user_file(name: str) -> bool:
    """Whether a policy's name is that of a file, and neither a built-in policy nor stages."""
    return name.partition(":")[0].endswith(".py")


def load_policy(policy: AnyPolicy) -> Policy:
    """A built-in policy, ``path/to/file.py[:function]``, or a function, to be called here.

    Built-in are the names that :func:`heuristics.policies.placer` reads: those of its tables,
    ``refined:40``, ``refined:relabel``, ``robust:worst``, and stages joined by ``+``. The function
    of a file is ``rebalance_experts`` by default, and may be an attribute of a class
    (``file.py:Class.function``).

    Raises:
        PolicyError: there is no such policy, file or function, importing it failed, or it says
            something of steps that is not understood.
    """
    if isinstance(policy, str) and not is_user_file(policy):
        return _built_in(policy)
    if not isinstance(policy, str):
        found = Policy(policy_name(policy), policy)
        _check_attributes(found, getattr(policy, "__dict__", {}))
        return found
    function = load_function(policy, DEFAULT_FUNCTION)
    found = Policy(policy, function)
    of_file = {
        name: value
        for name, value in getattr(function, "__globals__", {}).items()
        if isinstance(value, bool)
    }
    _check_attributes(found, of_file | getattr(function, "__dict__", {}))
    return found


def _check_attributes(policy: Policy, given: dict[str, Any]) -> None:
    """``takes_steps`` is an attribute of the function, and nothing nearly so called is one.

    Raises:
        PolicyError: what is given would be read as nothing, or is no objective or dispatch.
    """
    function = policy_name(policy.function)
    for name in difflib.get_close_matches(TAKES_STEPS, given, cutoff=0.8):
        if name != TAKES_STEPS or not hasattr(policy.function, TAKES_STEPS):
            raise PolicyError(f"{name} is not read: write {function}.{TAKES_STEPS} = True")
    takes = getattr(policy.function, TAKES_STEPS, False)
    if not isinstance(takes, bool):
        raise PolicyError(f"{function}.{TAKES_STEPS}={takes!r} is neither True nor False")
    try:
        _ = policy.cost
    except ValueError as error:
        raise PolicyError(f"{function}.{error}") from None


def load_function(name: str, default: str) -> Callable[..., Any]:
    """The function of ``path/to/file.py[:function]``, which is imported here.

    Raises:
        PolicyError: there is no such file or function, or importing it failed.
    """
    path, _, given = name.partition(":")
    target: Any = _import_file(Path(path))
    for part in (given or default).split("."):
        if not hasattr(target, part):
            raise PolicyError(f"{path} has no {given or default!r}")
        target = getattr(target, part)
    if not callable(target):
        raise PolicyError(f"{given or default!r} of {path} is not a function")
    function: Callable[..., Any] = target
    return function


def policy_name(policy: AnyPolicy) -> str:
    """What reports call a policy: its name, or that of the function."""
    return policy if isinstance(policy, str) else getattr(policy, "__qualname__", repr(policy))


def named_policies(policies: AnyPolicy | Iterable[AnyPolicy]) -> list[tuple[str, AnyPolicy]]:
    """One policy or several, each with its name; functions of one name are numbered."""
    several = [policies] if isinstance(policies, str) or callable(policies) else policies
    found = list[tuple[str, AnyPolicy]]()
    for policy in several:
        name = policy_name(policy)
        same = sum(policy_name(known) == name for _, known in found)
        numbered = f"{name} #{same + 1}" if same and not isinstance(policy, str) else name
        found.append((numbered, policy))
    return found


def known_policy(name: str) -> None:
    """Check a policy's name without loading the file that it may name.

    Raises:
        PolicyError: it is neither built in, nor stages, nor a file.
    """
    if not is_user_file(name):
        load_policy(name)


def _built_in(name: str) -> Policy:
    from heuristics.policies import KEEPING_NAMES, NAMED, UnknownPolicyError, placer

    try:
        return Policy(name, placer(name), built_in=True)
    except UnknownPolicyError:
        near = difflib.get_close_matches(name, NAMED, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        if "@" in name:
            meant = " (rule and limit are said by --rule and --traffic here)"
        raise PolicyError(
            f"unknown policy {name!r}{meant}: give one of {', '.join(NAMED)}, {KEEPING_NAMES}, "
            "stages such as 'greedy + snake', or FILE.py[:FUNCTION]"
        ) from None
    except ValueError as error:
        raise PolicyError(str(error)) from None


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PolicyError(f"no such file: {path}")
    # Every file is a module of its own, whatever its name; dataclasses need it in sys.modules.
    name = f"{USER_MODULE}{abs(hash(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PolicyError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PolicyError(f"importing {path} failed: {one_line(error)}") from error
    return module


def _required_arguments(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins have no signature
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)


def check_placement(answer: Any, instance: Instance) -> Placement:
    """The placement in ``phy2log`` or ``(phy2log, log2phy, logcnt)``, if all of it is right.

    Raises:
        InvalidPlacementError: it is no placement, or breaks a rule of the instance.
    """
    maps = answer if isinstance(answer, tuple) else (answer,)
    if not maps:
        raise InvalidPlacementError("the policy returned nothing")
    try:
        placement = Placement(as_array(maps[0], "phy2log"), instance.num_logical_experts)
    except ValueError as error:
        raise InvalidPlacementError(str(error)) from None
    violations = find_violations(placement, instance)
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        raise InvalidPlacementError(violations[0].message + more)
    if len(maps) == 3:
        _check_maps(placement, as_array(maps[1], "log2phy"), as_array(maps[2], "logcnt"))
    return placement


def _check_maps(placement: Placement, log2phy: Any, logcnt: Any) -> None:
    """An engine routes by the other two maps, so they must say the same as phy2log."""
    if logcnt.shape != placement.logcnt.shape or (logcnt != placement.logcnt).any():
        raise InvalidPlacementError("logcnt is not the number of replicas in phy2log")
    expected = placement.log2phy
    if log2phy.ndim != 3 or log2phy.shape[:2] != expected.shape[:2]:
        raise InvalidPlacementError(f"log2phy has shape {log2phy.shape}, expected [L, E, X]")
    width = max(log2phy.shape[2], expected.shape[2])
    given, wanted = (
        np.sort(np.pad(m, ((0, 0), (0, 0), (0, width - m.shape[2])), constant_values=-1), axis=2)
        for m in (log2phy, expected)
    )
    if (given != wanted).any():
        layer, expert = (int(i) for i in np.argwhere((given != wanted).any(axis=2))[0])
        raise InvalidPlacementError(
            f"layer {layer}: log2phy of expert {expert} is not the slots that hold it in phy2log"
        )


def as_array(value: Any, name: str) -> Any:
    """A numpy array from a tensor on any device, or from anything that looks like an array."""
    try:
        return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except Exception as error:
        kind = type(value).__name__
        raise InvalidPlacementError(f"{name} is a {kind}: {one_line(error)}") from None


def one_line(error: BaseException) -> str:
    """Kind and first line of an exception, and the last line of a user's file on its way."""
    lines = str(error).strip().splitlines()
    kind, where = type(error).__name__, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").startswith(USER_MODULE):
            where = f" ({Path(frame.f_code.co_filename).name}, line {line})"
    return printable((f"{kind}: {lines[0]}" if lines else kind) + where)
