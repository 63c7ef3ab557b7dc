"""What a sweep covers, validated: all errors at once, each with its place and value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from eplb_opt.io.synthetic import FAMILIES
from eplb_opt.policies.names import PolicyError, known_policy
from eplb_opt.problem.objective import Cost

Text = Annotated[str, Field(min_length=1)]


class SpecError(ValueError):
    """What is wrong with a spec: one line an error."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Recorded(_Strict):
    """A file of recorded loads.

    Attributes:
        file: path, relative to the spec.
        layers: number of the first layers that are taken; None for all.
        window: of a trace: so many steps an instance, one after another; None sums all steps.
    """

    file: Text
    layers: PositiveInt | None = None
    window: PositiveInt | None = None


class Generated(_Strict):
    """Generated loads, one instance a seed; see :func:`eplb_opt.io.synthetic.generate`."""

    family: Literal[tuple(FAMILIES)]  # type: ignore[valid-type]
    layers: PositiveInt
    experts: PositiveInt
    tokens: PositiveInt = 1_000_000
    groups: PositiveInt = 8
    shape: float | None = None
    seeds: Annotated[list[int], Field(min_length=1)]


class Machine(_Strict):
    """Slots, as ``redundant`` or as ``physical``, on ranks and nodes."""

    redundant: Annotated[int, Field(ge=0)] | None = None
    physical: PositiveInt | None = None
    gpus: PositiveInt
    nodes: PositiveInt = 1
    groups: PositiveInt = 1

    @model_validator(mode="after")
    def _one_of_two(self) -> Machine:
        if (self.redundant is None) == (self.physical is None):
            raise ValueError("give the number of slots as one of redundant and physical")
        return self


class Solver(_Strict):
    """An exact method on every layer; ``time_limit`` in seconds a layer."""

    stage: Literal["joint", "packing"] = "joint"
    backend: str = "auto"
    time_limit: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _known(self) -> Solver:
        from solvers import BACKENDS  # takes a second to import

        known = ["auto", *BACKENDS[self.stage]]
        if self.backend not in known:
            raise ValueError(f"backend {self.backend!r} is not one of {', '.join(known)}")
        return self


class Block(_Strict):
    """Everything with everything: instances x machines x rules x (policies and solvers).

    Attributes:
        traffic: limits under the rule ``home``, each for itself: the part of a layer's tokens that
            may be served off home.
        objective: what a placement is measured by, over the steps of a trace.
        dispatch: how the tokens of an expert are shared by its replicas.
    """

    instances: Annotated[list[Recorded | Generated], Field(min_length=1)]
    machines: Annotated[list[Machine], Field(min_length=1)]
    rules: list[Literal["auto", "global", "hierarchical", "home"]] = ["auto"]
    traffic: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)] = [1.0]
    policies: list[Text] = []
    solvers: list[Solver] = []
    objective: str = "sum"
    dispatch: str = "even"

    @property
    def cost(self) -> Cost:
        """Objective and dispatch."""
        return Cost.of(self.objective, self.dispatch)

    @model_validator(mode="after")
    def _complete(self) -> Block:
        Cost.of(self.objective, self.dispatch)  # its ValueError says what is wrong
        if not self.policies and not self.solvers:
            raise ValueError("give policies, solvers or both")
        if self.traffic != [1.0] and "home" not in self.rules:
            raise ValueError("traffic is limited under the rule home: name it in rules")
        for name in self.policies:
            try:
                known_policy(name)
            except PolicyError as error:
                raise ValueError(str(error)) from None
        return self


class Spec(_Strict):
    """A sweep.

    Attributes:
        blocks: what is measured.
        time_limit: seconds of exact search a layer for the reference; None as ``eplb-opt gap``.
        seed: of exact searches.
        policy_timeout: seconds for a call of a policy in a file.
        policy_memory_gb: what it may allocate.
        keep_layers: store gap and makespan of every layer, not only mean and maximum.
    """

    blocks: Annotated[list[Block], Field(min_length=1)]
    time_limit: Annotated[float, Field(ge=0)] | None = None
    seed: int = 0
    policy_timeout: Annotated[float, Field(gt=0)] = 60.0
    policy_memory_gb: Annotated[float, Field(gt=0)] = 4.0
    keep_layers: bool = True


def read_spec(path: Path) -> Spec:
    """The spec in a YAML file; paths in it become relative to the working directory.

    Raises:
        SpecError: every error, a line each: file, field, what is wrong, value.
        OSError: the file can't be read.
    """
    try:
        spec = Spec.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        raise SpecError("\n".join(_lines(path, error))) from None
    spec = _resolve(spec, path.parent)
    missing = [
        f"{path}: no such file: {found}"
        for found in dict.fromkeys(_files(spec))
        if not Path(found).exists()
    ]
    if missing:
        raise SpecError("\n".join(missing))
    return spec


def _lines(path: Path, error: ValidationError) -> list[str]:
    found: dict[str, None] = {}
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"] if part not in MODELS)
        value = problem["input"]
        shown = "" if isinstance(value, dict | list) or value is None else f": {value!r}"
        message = problem["msg"].removeprefix("Value error, ")
        found[f"{path}: {place or 'the document'}: {message}{shown}"] = None
    return list(found)


MODELS = ("Recorded", "Generated")
"""Names that pydantic puts into the place of an error in a union."""


def _resolve(spec: Spec, folder: Path) -> Spec:
    def path(name: str) -> str:
        return name if Path(name).is_absolute() else str(folder / name)

    def policy(name: str) -> str:
        return path(name) if name.partition(":")[0].endswith(".py") else name

    def block(found: Block) -> Block:
        instances: list[Any] = [
            i.model_copy(update={"file": path(i.file)}) if isinstance(i, Recorded) else i
            for i in found.instances
        ]
        policies = [policy(name) for name in found.policies]
        return found.model_copy(update={"instances": instances, "policies": policies})

    return spec.model_copy(update={"blocks": [block(found) for found in spec.blocks]})


def _files(spec: Spec) -> list[str]:
    found = []
    for block in spec.blocks:
        found += [i.file for i in block.instances if isinstance(i, Recorded)]
        found += [
            p.partition(":")[0] for p in block.policies if p.partition(":")[0].endswith(".py")
        ]
    return found
