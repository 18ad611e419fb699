"""The paper's figures and tables, and its revision's: one file each, found by being here."""

import importlib
import pkgutil
import re
from functools import cache

from fairlane.core.errors import UnknownNameError
from fairlane.experiments.figure import Figure


@cache
def figures() -> dict[str, Figure]:
    """All figures by name: the paper's in their order, then the others."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    found: list[Figure] = [importlib.import_module(f"{__name__}.{m}").FIGURE for m in modules]
    return {figure.name: figure for figure in sorted(found, key=_order)}


def get_figures(names: list[str]) -> list[Figure]:
    """The figures of these names, or all. Raises UnknownNameError, which lists the nearest."""
    known = figures()
    for name in names:
        if name not in known:
            raise UnknownNameError("figure", name, known)
    return [figure for name, figure in known.items() if not names or name in names]


def _order(figure: Figure) -> tuple[bool, int, str]:
    number = re.fullmatch(r"fig(\d+)", figure.name)
    return (number is None, int(number[1]) if number else 0, figure.name)
