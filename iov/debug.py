"""Sans-IO. The debug switch of this package: mistakes that the kernel forgives become errors.

On: moving an iterator past its end raises, a lease's view is dead and its memory overwritten once it is given back. Off (the
default) costs nothing on the paths that do not go wrong. Owns no memory.
"""

__all__ = ["debugging", "set_debug"]

_on = [False]


def set_debug(on: bool) -> bool:
    """Switch debug mode. Returns: what it was before."""
    before = _on[0]
    _on[0] = on
    return before


def debugging() -> bool:
    """Tell whether debug mode is on."""
    return _on[0]
