"""A device that only poses as one: tensors with values, for which the host must ask.

A tensor of it says that it is not on the CPU, so that policies take the branches of an accelerator,
and keeps its values on the CPU. Operations are counted: those that start a kernel or several, and
copies between host and device, which make the host wait. A policy gives on it what it would give on
a device, but for the order in which a device sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from heuristics import loops, packing, replication
from tests.heuristics.dispatch.operations import name_of, starts_kernel, why_it_waits

DEVICE = torch.device("meta:1")


class Posing(Tensor):
    """A tensor of the device.

    Attributes:
        held: its values, on the CPU.
        is_number: it is a number of the host; where that is assigned to an index, CUDA copies it.
    """

    held: Tensor
    is_number: bool = False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Posing:
        made: Posing = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, *rest: Any) -> Any:
        raise AssertionError(f"{func} while the device is not there")


class Device(TorchDispatchMode):
    """The device is there while this is entered.

    Attributes:
        kernels: operations that start one or several, by name.
        copies: operations for which the host waits, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self._lists = _Lists(self.copies)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __enter__(self) -> Device:
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        ours = {id(x.held): x for x in tensors if isinstance(x, Posing)}
        here = kwargs["device"] == DEVICE if kwargs.get("device") else bool(ours)
        if not (ours or here):
            return func(*args, **kwargs)
        self._count(func, args, kwargs, [x for x in tensors if not isinstance(x, Posing)], here)
        if here and "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        args, kwargs = tree_map_only(Posing, lambda x: x.held, (args, kwargs))
        found = func(*args, **kwargs)
        if not here:
            return found
        if name_of(func) == "scalar_tensor":
            number = Posing(found)
            number.is_number = True
            return number
        return tree_map_only(Tensor, lambda x: ours[id(x)] if id(x) in ours else Posing(x), found)

    def _count(
        self, func: Any, args: Any, kwargs: Any, elsewhere: list[Tensor], here: bool
    ) -> None:
        name = name_of(func)
        if elsewhere or not here:
            if name not in {"_to_copy", "copy"}:
                assert all(x.ndim == 0 for x in elsewhere), f"{name} of tensors on two devices"
            else:
                self.copies[name] += 1
        elif why_it_waits(func, args, kwargs) or (name == "index_put" and args[2].is_number):
            self.copies[name] += 1
        if starts_kernel(func):
            self.kernels[name] += 1


class _Lists(TorchFunctionMode):
    """Lists of the host made tensors of the device, or of them, which no operation shows."""

    def __init__(self, copies: Counter[str]) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        made = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if made and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            self.copies["tensor"] += 1
            return Posing(func(*args, **(kwargs | {"device": "cpu"})))
        if func is Tensor.tolist and isinstance(args[0], Posing):
            self.copies["tolist"] += 1
            return args[0].held.tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Posing):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(i, list) for i in index):
                self.copies["index by a list"] += 1
                index = tuple(Posing(torch.tensor(i)) if isinstance(i, list) else i for i in index)
                args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


def on_device(
    function: Callable[..., Any], *tensors: Tensor, triton: bool = True
) -> tuple[Any, Device]:
    """What the function gives of tensors on the device, now on the CPU, and the device with what it
    counted; the device of a GPU ``triton``, or without the kernels of ``heuristics.loops``.

    Where there were copies, it is called again: tables that it makes once and keeps do not count.
    """
    found, device = _call(function, tensors, triton)
    if device.copies:
        found, device = _call(function, tensors, triton)
    return tree_map_only(Tensor, _values, found), device


def _call(function: Callable[..., Any], tensors: Any, triton: bool) -> tuple[Any, Device]:
    device = Device()

    def kernel(name: str, loop: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
        def launch(loads: Posing, number: int) -> Tensor:
            device.kernels[name] += 1
            return Posing(loop(loads.held, number))

        return launch

    kernels = {
        "run_on": lambda like: triton and isinstance(like, Posing),
        "greedy_replicas": kernel("greedy_replicas", replication.greedy_replicas),
        "assign_slots": kernel("assign_slots", packing._assign_slots),
    }
    with mock.patch.multiple(loops, **kernels), device:
        return function(*(Posing(x) for x in tensors)), device


def _values(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, Posing), "a tensor that is not on the device"
    return tensor.held
