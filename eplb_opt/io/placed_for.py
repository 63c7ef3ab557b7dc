"""Where the placements in a file belong: the machine, the rule and the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io.errors import FormatError
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.topology import Rule, Topology


@dataclass(frozen=True)
class PlacedFor:
    """What an instance says about the placements that are made for it.

    Attributes:
        num_logical_experts: E.
        topology: the machine.
        rule: the resolved rule.
        layers: what each row is called, as ``Instance.numbers``.
    """

    num_logical_experts: int
    topology: Topology
    rule: Rule
    layers: tuple[int, ...]

    @classmethod
    def of(cls, instance: Instance) -> PlacedFor:
        """What is written with the placements for ``instance``."""
        rule = Rule(instance.rule)
        return cls(instance.num_logical_experts, instance.topology, rule, instance.numbers)

    @classmethod
    def parse(cls, path: Path, document: Any) -> PlacedFor:
        """What :meth:`document` gave.

        Raises:
            FormatError: it is something else.
        """
        try:
            sizes = [document[field.name] for field in fields(Topology)]
            layers = tuple(map(int, document["layers"]))
            experts = int(document["num_logical_experts"])
            return cls(experts, Topology(*sizes), Rule(document["rule"]), layers)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                path, f"instance is damaged ({error!r}): write the placements again"
            ) from None

    def document(self) -> dict[str, Any]:
        """As JSON, under the names that other documents use."""
        sizes = {"num_logical_experts": self.num_logical_experts} | asdict(self.topology)
        return sizes | {"rule": str(self.rule), "layers": list(self.layers)}

    def require(self, path: Path, instance: Instance) -> None:
        """Refuse an instance whose machine or rule is another.

        Nodes and groups matter where a rule looks at them.

        Raises:
            FormatError: it names what differs, and both values.
        """
        ours, theirs = self.document(), PlacedFor.of(instance).document()
        ignored = {"layers"}
        if self.rule == instance.rule == Rule.GLOBAL:
            ignored |= {"num_nodes", "num_groups"}
        different = [
            f"{name}={value}, not {theirs[name]}"
            for name, value in ours.items()
            if name not in ignored and value != theirs[name]
        ]
        if different:
            raise FormatError(
                path, f"was placed for {'; '.join(different)}: give the machine that it is for"
            )

    def rows(
        self, path: Path, phy2log: NDArray[np.int64], layers: Sequence[int]
    ) -> NDArray[np.int64]:
        """Those rows of ``phy2log`` that place ``layers``, in their order.

        Loads whose rows are numbered from 0 may be a cut of the model: as many rows go in order.

        Raises:
            FormatError: a layer has no row.
        """
        row_of = dict(zip(self.layers, phy2log, strict=False))
        missing = [layer for layer in layers if layer not in row_of]
        if not missing:
            return np.array([row_of[layer] for layer in layers])
        if list(layers) == list(range(len(phy2log))):
            return phy2log
        raise FormatError(
            path,
            f"has no placement of layer {missing[0]}, but of {str([*row_of])[:60]}: see --layers",
        )
