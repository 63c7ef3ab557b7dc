"""Results as people see them: a few lines in a terminal, a table in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from xml.etree import ElementTree


@dataclass(frozen=True)
class Shown:
    """What is shown of a result; ``rows`` have a cell for each of ``columns``."""

    heading: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    def text(self) -> str:
        """The heading and a line a row, a single row beside it; empty cells are left out."""
        lines = []
        for first, *cells in self.rows:
            named = zip(self.columns[1:], cells, strict=True)
            lines.append(", ".join([first, *(f"{name} {cell}" for name, cell in named if cell)]))
        return printable((": " if len(lines) == 1 else "\n  ").join([self.heading, *lines]))

    def html(self) -> str:
        """A table, in which every text is escaped."""
        table = ElementTree.Element("table")
        ElementTree.SubElement(table, "caption").text = printable(self.heading)
        for kind, row in [("th", self.columns), *(("td", row) for row in self.rows)]:
            line = ElementTree.SubElement(table, "tr")
            for cell in row:
                ElementTree.SubElement(line, kind).text = printable(cell)
        return ElementTree.tostring(table, encoding="unicode", method="html")


class ShowsItself:
    """For a class that says what is shown of it; a dataclass needs ``repr=False`` beside it."""

    def _shown(self) -> Shown:
        """What is shown."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()


def printable(text: str) -> str:
    """``text`` with escapes in place of what would not be seen: control sequences for a terminal,
    bytes of a file's name that are no UTF-8.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def percent(ratio: float | None) -> str:
    """``0.0123`` as ``1.23 %``, empty for None."""
    return "" if ratio is None else f"{100 * ratio:.3g} %"


def tokens(value: Fraction | None) -> str:
    """Three decimals, or six digits of what is larger than people count; empty for None."""
    if value is None:
        return ""
    if value < 10**12:
        return f"{float(value):.3f}".removesuffix(".000")
    return f"{Decimal(value.numerator) / Decimal(value.denominator):.6g}"
