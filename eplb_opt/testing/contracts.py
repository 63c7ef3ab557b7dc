"""What a serving engine relies on: the contracts of a policy, checked by calling it here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from eplb_opt.io.synthetic import generate
from eplb_opt.policies.names import Policy, PolicyError, arguments, check_placement
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.topology import Topology


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        check: its name.
        message: what is wrong; empty if it passed.
        figure: what was measured, where that is more than a pass.
    """

    check: str
    message: str = ""
    figure: str = ""


def message_of(check: Callable[[], object]) -> str:
    """What a check says if it fails, on one line."""
    try:
        check()
    except (PolicyError, AssertionError) as error:
        return " ".join(str(error).split())
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return ""


LOADS = [
    [9.0, 5, 4, 3, 2, 2, 1, 1],
    [1.0, 1, 1, 1, 1, 1, 1, 7],
    [0.0] * 8,
    [2.0, 0, 3, 0, 0, 0, 0, 1],
]
SIZES = [12, 4, 2, 4]


def given(policy: Policy, loads: Any = LOADS, dtype: str = "float32") -> Any:
    """The loads [L, E]; for a policy that takes steps three of them [T, L, E]: these, the same of
    other experts, and a step without load.
    """
    import torch

    weight = torch.tensor(loads).to(getattr(torch, dtype))
    if policy.takes_steps:
        return torch.stack([weight, weight.flip(1), torch.zeros_like(weight)])
    return weight


def _instance(loads: Any = LOADS, sizes: list[int] | None = None) -> Instance:
    num_slots, num_groups, num_nodes, num_ranks = sizes or SIZES
    return Instance(loads, Topology(num_slots, num_ranks, num_nodes, num_groups))


def _check(policy: Policy, weight: Any, instance: Instance) -> Any:
    _, sizes = arguments(instance)
    return check_placement(policy.call(weight, sizes), instance)


def takes_dtype(name: str, policy: Policy) -> str:
    """Loads of that dtype give a valid placement."""
    return message_of(lambda: _check(policy, given(policy, dtype=name), _instance()))


def takes_strided_loads(policy: Policy) -> str:
    """A transposed, not contiguous tensor gives what its copy gives."""
    weight = given(policy)
    last_to_first = list(range(weight.ndim))[::-1]
    strided = weight.permute(last_to_first).contiguous().permute(last_to_first)

    def check() -> None:
        ours = _check(policy, strided, _instance())
        copied = _check(policy, strided.contiguous(), _instance())
        if (ours.phy2log != copied.phy2log).any():
            raise AssertionError("other placement than for a contiguous copy of the loads")

    return message_of(check)


def leaves_input_alone(policy: Policy) -> str:
    """The loads are the same after a call."""
    import torch

    weight = given(policy)
    before = weight.clone()
    failed = message_of(lambda: policy.call(weight, SIZES))
    return failed or ("" if torch.equal(weight, before) else "it wrote into its input")


def is_deterministic(policy: Policy) -> str:
    """Three calls give the same placement."""
    loads = generate("lognormal", num_layers=4, num_experts=64, tokens=10**5, seed=3)
    instance = Instance(loads, Topology(72, 8))

    def check() -> None:
        weight = given(policy, loads)
        found = [_check(policy, weight.clone(), instance).phy2log for _ in range(3)]
        if any((other != found[0]).any() for other in found[1:]):
            raise AssertionError("two calls with the same loads gave different placements")

    return message_of(check)


def takes_shape(loads: Any, sizes: list[int], policy: Policy) -> str:
    """A corner of the shapes gives a valid placement."""
    instance = _instance(loads, sizes)
    return message_of(lambda: _check(policy, given(policy, loads), instance))


def takes_one_step(policy: Policy) -> str:
    """A single step [1, L, E] gives a valid placement, as a window without history does."""
    return message_of(lambda: _check(policy, given(policy)[:1], _instance()))


def returns_integers(policy: Policy) -> str:
    """Maps of 64-bit integers on the device of the loads."""
    import torch

    def check() -> None:
        answer = policy.call(given(policy), SIZES)
        for value in answer if isinstance(answer, tuple) else (answer,):
            if not isinstance(value, torch.Tensor) or value.dtype != torch.int64:
                kind = getattr(value, "dtype", type(value).__name__)
                raise AssertionError(f"a map is {kind}, not a tensor of int64")

    return message_of(check)


def refuses_uneven_groups(policy: Policy) -> str:
    """8 experts in 3 groups on 3 nodes is an error, not a placement."""
    try:
        policy.call(given(policy), [12, 3, 3, 3])
    except Exception:
        return ""
    return "8 experts can't form 3 equal groups, but it placed them"


CONTRACTS: dict[str, Callable[[Policy], str]] = {
    "loads in float32": partial(takes_dtype, "float32"),
    "loads in float64": partial(takes_dtype, "float64"),
    "loads in float16": partial(takes_dtype, "float16"),
    "loads in int64": partial(takes_dtype, "int64"),
    "loads in int32": partial(takes_dtype, "int32"),
    "strided loads": takes_strided_loads,
    "input untouched": leaves_input_alone,
    "deterministic": is_deterministic,
    "maps are int64": returns_integers,
    "one layer": partial(takes_shape, LOADS[:1], SIZES),
    "no load at all": partial(takes_shape, [[0.0] * 8] * 2, SIZES),
    "one rank": partial(takes_shape, LOADS, [10, 1, 1, 1]),
    "one slot a rank": partial(takes_shape, LOADS, [8, 1, 1, 8]),
    "no redundant expert": partial(takes_shape, LOADS, [8, 1, 1, 2]),
    "more slots than ranks times experts": partial(takes_shape, [[3.0, 1.0]], [12, 1, 1, 2]),
    "uneven groups refused": refuses_uneven_groups,
}
"""What a serving engine relies on: name -> check, which returns what is wrong or nothing."""

STEP_CONTRACTS = CONTRACTS | {"a single step": takes_one_step}
"""Of a policy that takes steps, which is given three of them."""


def check_contracts(policy: Policy) -> Iterator[Finding]:
    """The findings of all contracts, as they come."""
    contracts = STEP_CONTRACTS if policy.takes_steps else CONTRACTS
    for name, check in contracts.items():
        many = policy.takes_steps and check is not takes_one_step
        yield Finding(name + ", of 3 steps" * many, check(policy))
