"""Import the modules of a package when a name in them is first used."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def import_name(package: str, modules: dict[str, str], name: str) -> Any:
    """Import the value called `name`, and keep it in the package, so that this is called once.

    modules: the names that the package offers, and the module in it that defines each. Raises
    AttributeError for any other name, as `__getattr__` of a module does.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(import_module(f"{package}.{modules[name]}"), name)
    setattr(sys.modules[package], name, value)
    return value
