"""Figures as elements of a page: the one trusted text in it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup

SVG = "http://www.w3.org/2000/svg"
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "eplb-opt", "font.size": 9}
"""Text stays text, and the same figure gives the same bytes."""


def draw(plot: Callable[[], Any] | None, prefix: str) -> Markup | None:
    """What ``plot`` draws, as SVG whose ids start with ``prefix``; None without a plot.

    Trusted, since text is in it only as ElementTree writes it, which escapes.
    """
    if plot is None:
        return None
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        plot().figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.findall(f"{{{SVG}}}metadata"):
        root.remove(element)
    for element in root.iter():
        names = {_local(name): value for name, value in element.attrib.items()}
        element.attrib = {name: _renamed(name, value, prefix) for name, value in names.items()}
    ElementTree.register_namespace("", SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """``href`` without its namespace: parsers of HTML know no prefixes but ``xlink``."""
    return name.rpartition("}")[2]


def _renamed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return re.sub("^#", f"#{prefix}-", value)
    return re.sub(r"url\(#", f"url(#{prefix}-", value)
