"""Sans-IO. The picture of `netfs explain` for a terminal. Owns no memory."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transport.generations import Comparison

__all__ = ["MAP_ROWS", "PAGE", "RULER", "SAYS", "picture"]

PAGE = 4096
RULER = 64
MAP_ROWS = 8
SAYS = {
    "legacy_send": "page list, an iterator a page, a scatterlist a send",
    "direct_send": "fragments straight from the iterator",
    "legacy_mr": "page list, scatterlist, one registration",
    "bvec_iova": "one device range over all fragments",
}


def picture(found: "Comparison") -> str:
    """Return where the payload lies in physical memory, and how its first bytes were cut, in plain text."""
    fragments = found.fragments
    base = min(vec.paddr for vec in fragments) // PAGE * PAGE
    last = max(vec.paddr + vec.length for vec in fragments)
    end = min(last, base + MAP_ROWS * RULER * PAGE)
    marks = ["·"] * (-(-(end - base) // PAGE))
    for vec in fragments:
        for page in range((vec.paddr - base) // PAGE, -(-(vec.paddr + vec.length - base) // PAGE)):
            if page < len(marks):
                marks[page] = "█"
    lines = [f"Payload in physical memory, {len(fragments)} fragment{'s' * (len(fragments) > 1)}; a mark is a page:"]
    lines += [f"  {base + row * PAGE:#012x} {''.join(marks[row : row + RULER])}" for row in range(0, len(marks), RULER)]
    if end < last:
        lines.append(f"  and so on, to {last:#x}")
    total = sum(vec.length for vec in fragments)
    shown = min(total, 4 * PAGE)
    lines += ["", f"The first {shown} bytes, cut where a new piece begins:"]
    lines.append(f"  {'in memory':<12}{ruler([vec.length for vec in fragments], shown)}")
    notes = []
    for generation in found.generations:
        name = generation.costs.name
        one = generation.costs.sges == 1
        pieces = [total] if one else [vec.length for vec in generation.sges]
        lines.append(f"  {name:<12}{ruler(pieces, shown)}")
        notes.append(f"  {name:<12}{generation.costs.sges:>7,} SGE{'s' if not one else ' '}  {SAYS[name]}")
    lines += ["", *notes]
    return "\n".join(lines)


def ruler(lengths: list[int], shown: int) -> str:
    """Draw `shown` bytes on RULER columns with a cut where each piece begins."""
    marks = ["─"] * RULER
    at = 0
    for length in lengths:
        if at >= shown:
            break
        marks[at * RULER // shown] = "├"
        at += length
    return "".join(marks) + ("┤" if at <= shown else "┄")
