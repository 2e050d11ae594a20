"""Sans-IO. A package's re-exports, imported when somebody asks for them.

A program that shows its help, or a command that needs little, then does not wait for client, server and every transport to load.
Owns no memory. After PEP 562.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["on_demand"]


def on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package. homes: the module each name comes from, which must not itself have that name."""

    def find(name: str) -> object:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    return find
