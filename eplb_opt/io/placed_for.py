"""Where the placements in a file belong: the machine, the rule and the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eplb_opt.io.errors import FormatError
from eplb_opt.problem.instance import Instance
from eplb_opt.problem.rationals import exact_text
from eplb_opt.problem.topology import Rule, Topology


@dataclass(frozen=True)
class PlacedFor:
    """What an instance says about the placements that are made for it.

    Attributes:
        num_logical_experts: E.
        topology: the machine.
        rule: the resolved rule.
        layers: what each row is called, as ``Instance.numbers``.
        traffic_limit: of the rule ``home``, for the loads that they were placed for.
    """

    num_logical_experts: int
    topology: Topology
    rule: Rule
    layers: tuple[int, ...]
    traffic_limit: Fraction = Fraction(1)

    @classmethod
    def of(cls, instance: Instance) -> PlacedFor:
        """What is written with the placements for ``instance``."""
        return cls(
            instance.num_logical_experts,
            instance.topology,
            Rule(instance.rule),
            instance.numbers,
            Fraction(instance.traffic_limit),
        )

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
            limit = Fraction(document.get("traffic_limit_exact", "1"))
            return cls(experts, Topology(*sizes), Rule(document["rule"]), layers, limit)
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise FormatError(
                path, f"instance is damaged ({error!r}): write the placements again"
            ) from None

    def document(self) -> dict[str, Any]:
        """As JSON, under the names that other documents use."""
        sizes = {"num_logical_experts": self.num_logical_experts} | asdict(self.topology)
        limit = {"traffic_limit_exact": exact_text(self.traffic_limit)}
        home = limit if self.rule == Rule.HOME else {}
        return sizes | {"rule": str(self.rule), **home, "layers": list(self.layers)}

    def require(self, path: Path, instance: Instance) -> None:
        """Refuse an instance whose machine or rule is another.

        Nodes and groups matter where a rule looks at them. A hierarchical placement follows the
        rule ``home``, too; a limit of traffic is one for certain loads.

        Raises:
            FormatError: it names what differs, and both values.
        """
        ours, theirs = self.document(), PlacedFor.of(instance).document()
        ignored = {"layers", "traffic_limit_exact"}
        if (self.rule, instance.rule) == (Rule.HIERARCHICAL, Rule.HOME):
            ignored.add("rule")
        if self.rule == instance.rule == Rule.GLOBAL:
            ignored |= {"num_nodes", "num_groups"}
        different = [
            f"{name}={value}, not {theirs[name]}"
            for name, value in ours.items()
            if name not in ignored and value != theirs[name]
        ]
        if different:
            told = (
                f"was placed for {'; '.join(different)}: give the machine and rule that it is for"
            )
            raise FormatError(path, told)

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
