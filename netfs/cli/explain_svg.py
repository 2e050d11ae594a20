"""Sans-IO. The picture of `netfs explain` as SVG: the payload's pages in physical memory, and how its first bytes were cut.

A colour is a fragment of the payload, in memory and in everything that was posted. Owns no memory.
"""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from netfs.cli.explain_text import MAP_ROWS, PAGE, RULER, SAYS

if TYPE_CHECKING:
    from transport.generations import Comparison

__all__ = ["draw"]

CELL: Final = 12
LEFT: Final = 124
MAP_WIDTH: Final = RULER * CELL
WIDTH: Final = LEFT + MAP_WIDTH + 28
BAR: Final = 26
ROW: Final = 58
COLOURS: Final = ("#4878a8", "#e69138", "#6aa84f", "#c27ba0", "#8e7cc3", "#45818e", "#bf9000", "#a64d4d")
STYLE: Final = (
    "text { font: 12px sans-serif; fill: #333 } .title { font-size: 17px; font-weight: bold } .head { font-weight: bold } "
    ".mono { font-family: monospace } .says { fill: #777; font-size: 11px } .frame { fill: #eef1f4 } "
    ".page { stroke: white }"
)


def draw(found: "Comparison", title: str) -> str:
    """Return the picture. It shows as much of a large payload as the one for a terminal does, and says so."""
    rows, below = _memory(found, 64)
    pieces, height = _pieces(found, below + 40)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            f'<text class="title" x="20" y="30">{escape(title)}</text>',
            *rows,
            *pieces,
            "</svg>",
            "",
        ]
    )


def _memory(found: "Comparison", top: int) -> tuple[list[str], int]:
    """Draw where the payload lies in physical memory. Returns: what was drawn, and where it ends."""
    fragments = found.fragments
    base = min(vec.paddr for vec in fragments) // PAGE * PAGE
    last = max(vec.paddr + vec.length for vec in fragments)
    count = min(-(-(last - base) // PAGE), MAP_ROWS * RULER)
    plural = "s" * (len(fragments) > 1)
    lines = [
        f'<text class="head" x="20" y="{top}">In physical memory: {len(fragments):,} fragment{plural}; a square is a page</text>'
    ]
    top += 12
    rows = -(-count // RULER)
    for row in range(rows):
        y = top + row * CELL
        lines.append(f'<text class="mono says" x="20" y="{y + 10}">{base + row * RULER * PAGE:#012x}</text>')
        lines.append(f'<rect class="frame" x="{LEFT}" y="{y}" width="{min(RULER, count - row * RULER) * CELL}" height="{CELL}"/>')
    for number, vec in enumerate(fragments):
        first, behind = (vec.paddr - base) // PAGE, -(-(vec.paddr + vec.length - base) // PAGE)
        for page in range(first, min(behind, count)):
            x, y = LEFT + page % RULER * CELL, top + page // RULER * CELL
            lines.append(
                f'<rect class="page" x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{_colour(number)}">'
                f"<title>{base + page * PAGE:#x}, fragment {number}</title></rect>"
            )
    end = top + rows * CELL
    if last > base + count * PAGE:
        end += 16
        lines.append(f'<text class="says" x="{LEFT}" y="{end}">and so on, to {last:#x}</text>')
    return lines, end


def _pieces(found: "Comparison", top: int) -> tuple[list[str], int]:
    """Draw how the first bytes were cut, in memory and by each generation. Returns: what was drawn, and where it ends."""
    total = sum(vec.length for vec in found.fragments)
    shown = min(total, 4 * PAGE)
    what = "The whole payload" if shown == total else f"The first {shown:,} bytes"
    lines = [f'<text class="head" x="20" y="{top}">{what}, piece by piece; a colour is a fragment</text>']
    starts = list(itertools.accumulate((vec.length for vec in found.fragments), initial=0))
    top += 16
    lines += _row("in memory", "", ((vec.paddr, vec.length) for vec in found.fragments), "fragment", starts, shown, top)
    for generation in found.generations:
        top += ROW
        costs = generation.costs
        posted = [(generation.sges[0].addr, total)] if costs.sges == 1 else [(vec.addr, vec.length) for vec in generation.sges]
        says = f"{costs.sges:,} SGE{'s' * (costs.sges != 1)} in {costs.messages:,} message{'s' * (costs.messages != 1)}: "
        lines += _row(costs.name, says + SAYS[costs.name], posted, "sge", starts, shown, top)
    return lines, top + ROW


def _row(
    name: str, says: str, pieces: Iterable[tuple[int, int]], kind: str, starts: list[int], shown: int, top: int
) -> list[str]:
    lines = [f'<g id="{name.replace(" ", "-")}">', f'<text class="mono" x="20" y="{top + 17}">{name}</text>']
    at = 0
    for addr, length in pieces:
        if at >= shown:
            break
        title = f"<title>{length:,} bytes at {addr:#x}</title>"
        lines.append(f'<g class="{kind}" data-address="{addr:#x}" data-length="{length}">{title}')
        # A piece that spans fragments has a strip of each; the cut is only where it ends.
        end = min(at + length, shown)
        for number in range(len(starts) - 1):
            low, high = max(at, starts[number]), min(end, starts[number + 1])
            if low < high:
                x, width = LEFT + low * MAP_WIDTH / shown, (high - low) * MAP_WIDTH / shown
                lines.append(f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{_colour(number)}"/>')
            if starts[number + 1] >= end:
                break
        x, width = LEFT + at * MAP_WIDTH / shown, (end - at) * MAP_WIDTH / shown
        lines.append(
            f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" fill="none" stroke="white" stroke-width="2"/></g>'
        )
        at += length
    if says:
        lines.append(f'<text class="says" x="{LEFT}" y="{top + BAR + 15}">{escape(says)}</text>')
    return [*lines, "</g>"]


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
