"""From the bytes of a certificate to numbers and evidence: types and fields; nothing is proven."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from eplb_opt.certificate.budget import CheckBudget, product_cost
from eplb_opt.certificate.statement import CertificateError
from eplb_opt.problem.evidence import (
    BlockBound,
    Blocks,
    ClosedForm,
    Cuts,
    Evidence,
    Exhaustive,
    Groups,
    LimitedCuts,
    OnePartition,
    Pattern,
    Prices,
    SameRank,
    StepBlock,
    Trusted,
    ValueEvidence,
)
from eplb_opt.problem.rationals import shown

NUMBER = re.compile("[0-9]{1,2000}(/[1-9][0-9]{0,2000})?")

LARGEST_FILE = 2**23
"""Bytes of a certificate; read in some 3 seconds at worst."""


def parse_document(content: bytes) -> Any:
    """The JSON in ``content``.

    Raises:
        CertificateError: it is no JSON, or too long, or nested too deeply, or an object has a key
            twice, or a number is NaN, infinite, or an integer of over 4,300 digits.
    """
    if len(content) > LARGEST_FILE:
        raise CertificateError(
            f"has over {LARGEST_FILE >> 20} MiB, too much to check: "
            "solve fewer layers for a certificate"
        )
    try:
        return json.loads(content, object_pairs_hook=_object, parse_constant=_no_number)
    except CertificateError:
        raise
    except RecursionError:
        raise CertificateError("no JSON of a certificate: nested too deeply") from None
    except ValueError as error:  # also of integers with more digits than Python reads
        raise CertificateError(f"no JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise CertificateError(f"an object has the key {shown(twice)!r} twice")
    return found


def _no_number(name: str) -> Any:
    raise CertificateError(f"{name} is no number")


def parse_exact(value: Any, name: str, budget: CheckBudget) -> Fraction:
    """A number in a document: ``num`` or ``num/den`` as a string.

    Raises:
        CertificateError: it is something else.
        TooLargeToCheckError: the budget does not suffice to read it.
    """
    budget.charge(2)
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        raise CertificateError(f"{name}={shown(value)!r} must be a string 'num' or 'num/den'")
    budget.charge(product_cost(2 * len(value), 2 * len(value)))
    return Fraction(value)


def parse_integers(values: Any, name: str) -> tuple[int, ...]:
    """A list of integers.

    Raises:
        CertificateError: it is something else.
    """
    if not isinstance(values, list) or any(type(v) is not int for v in values):
        raise CertificateError(f"{name} must be a list of integers")
    return tuple(values)


def parse_evidence(given: Any, budget: CheckBudget | None = None) -> Evidence:
    """Evidence of any kind; ``budget`` is that of a whole document if None.

    Raises:
        CertificateError: no such kind, or a field is missing, too many or of a wrong type.
        TooLargeToCheckError: the budget does not suffice to read it.
    """
    budget = CheckBudget() if budget is None else budget
    budget.charge(10)
    kind = _field(given, "kind", str)
    if kind not in READERS:
        raise CertificateError(f"kind={shown(kind)!r} is no kind of evidence")
    return READERS[kind](given, budget)


def _closed_form(given: dict[str, Any], _budget: CheckBudget) -> ClosedForm:
    _only(given, {"kind"})
    return ClosedForm()


def _exhaustive(given: dict[str, Any], _budget: CheckBudget) -> Exhaustive:
    _only(given, {"kind"})
    return Exhaustive()


def _trusted(given: dict[str, Any], _budget: CheckBudget) -> Trusted:
    _only(given, {"kind", "solver"})
    return Trusted(_field(given, "solver", str))


def _pattern(given: dict[str, Any], budget: CheckBudget) -> Pattern:
    fields = {"kind", "bound", "grid", "count_price", "levels"}
    if set(given) != fields:
        raise CertificateError(f"evidence of kind 'pattern' has the fields {sorted(fields)}")
    levels = _field(given, "levels", list)
    budget.charge(2 * len(levels))
    if not all(isinstance(level, list) and len(level) == 2 for level in levels):
        raise CertificateError("levels must be a list of [weight, price] pairs")
    grid, price = parse_integers([given.get("grid"), given.get("count_price")], "grid, count_price")
    pairs = (parse_integers(level, "the pairs of levels") for level in levels)
    bound = parse_exact(given.get("bound"), "bound", budget)
    return Pattern(bound, grid, price, tuple((weight, price) for weight, price in pairs))


def _groups(given: dict[str, Any], budget: CheckBudget) -> Groups:
    _only(given, {"kind", "blocks"})
    return Groups(tuple(_group_block(entry, budget) for entry in _field(given, "blocks", list)))


def _group_block(entry: Any, budget: CheckBudget) -> BlockBound:
    _only(entry, {"groups", "bound", "evidence"})
    groups = parse_integers(entry.get("groups"), "groups")
    bound = parse_exact(entry.get("bound"), "bound", budget)
    evidence = entry.get("evidence")
    if isinstance(evidence, dict) and evidence.get("kind") == "groups":
        raise CertificateError("groups within a block: a node is under the global rule")
    return BlockBound(groups, bound, parse_evidence(evidence, budget))


def _blocks(given: dict[str, Any], budget: CheckBudget) -> Blocks:
    _only(given, {"kind", "blocks"})
    return Blocks(tuple(_step_block(entry, budget) for entry in _field(given, "blocks", list)))


def _step_block(entry: Any, budget: CheckBudget) -> StepBlock:
    _only(entry, {"steps", "bound", "evidence"})
    steps = parse_integers(entry.get("steps"), "steps")
    bound = parse_exact(entry.get("bound"), "bound", budget)
    evidence = entry.get("evidence")
    if isinstance(evidence, dict) and evidence.get("kind") == "blocks":
        raise CertificateError("blocks within a block: its steps are one")
    return StepBlock(steps, bound, parse_evidence(evidence, budget))


def _one_partition(given: dict[str, Any], _budget: CheckBudget) -> OnePartition:
    _only(given, {"kind"})
    return OnePartition()


def _same_rank(given: dict[str, Any], budget: CheckBudget) -> SameRank:
    _only(given, {"kind", "steps", "prices", "floors", "factors"})
    prices = _field(given, "prices", list)
    budget.charge(2 * sum(len(row) for row in prices if isinstance(row, list)))
    if not all(isinstance(row, list) for row in prices) or any(
        not isinstance(pair, list) or len(pair) != 2 for row in prices for pair in row
    ):
        raise CertificateError("prices must be a list of lists of [expert, price] pairs")
    pairs = [[parse_integers(pair, "the pairs of prices") for pair in row] for row in prices]
    return SameRank(
        parse_integers(given.get("steps"), "steps"),
        tuple(tuple((expert, price) for expert, price in row) for row in pairs),
        tuple(parse_exact(floor, "floors", budget) for floor in _field(given, "floors", list)),
        _integer_lists(given, "factors", budget),
    )


READERS: dict[str, Callable[[dict[str, Any], CheckBudget], Evidence]] = {
    "closed-form": _closed_form,
    "exhaustive": _exhaustive,
    "trusted": _trusted,
    "pattern": _pattern,
    "groups": _groups,
    "blocks": _blocks,
    "one-partition": _one_partition,
    "same-rank": _same_rank,
}
"""By kind of evidence."""


def parse_value_evidence(given: Any, budget: CheckBudget) -> ValueEvidence | Trusted | None:
    """Why a placement costs no less; ``trusted`` if that it costs as much is a solver's word.

    Raises:
        CertificateError: no such kind, or a field is missing, too many or of a wrong type.
    """
    if given is None:
        return None
    budget.charge(10)
    kind = _field(given, "kind", str)
    if kind == "trusted":
        return _trusted(given, budget)
    if kind == "cuts":
        _only(given, {"kind", "ranks"})
        return Cuts(_integer_lists(given, "ranks", budget))
    if kind == "prices":
        _only(given, {"kind", "scale", "prices", "bound", "traffic_price"})
        bound = parse_exact(given.get("bound"), "bound", budget)
        (scale,) = parse_integers([given.get("scale")], "scale")
        (of_traffic,) = parse_integers([given.get("traffic_price", 0)], "traffic_price")
        return Prices(scale, _integer_lists(given, "prices", budget), bound, of_traffic)
    if kind == "limited-cuts":
        _only(given, {"kind", "prices", "traffic_prices"})
        of_traffics = parse_integers(_field(given, "traffic_prices", list), "traffic_prices")
        budget.charge(len(of_traffics) // 4)
        return LimitedCuts(_integer_lists(given, "prices", budget), of_traffics)
    raise CertificateError(f"kind={shown(kind)!r} is no kind of evidence for a value")


def _integer_lists(
    given: dict[str, Any], name: str, budget: CheckBudget
) -> tuple[tuple[int, ...], ...]:
    rows = _field(given, name, list)
    budget.charge(len(rows) + sum(len(row) for row in rows if isinstance(row, list)) // 4)
    return tuple(parse_integers(row, name) for row in rows)


def _field(holder: Any, name: str, kind: type) -> Any:
    if not isinstance(holder, dict) or not isinstance(holder.get(name), kind):
        raise CertificateError(f"{name!r} is missing or no {kind.__name__}")
    return holder[name]


def _only(holder: Any, names: set[str]) -> None:
    if not isinstance(holder, dict) or set(holder) - names:
        raise CertificateError(f"expected an object with the fields {', '.join(sorted(names))}")
