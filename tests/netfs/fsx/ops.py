"""The operations of the model test as a text that can be kept and replayed, one a line.

# transport=stream encrypted=1 cache=active ...        the world; a line of its own, first
write 0 0x3ef2e 0xf9c8 17                              descriptor, position, length, tag of the content
read 2 0x57781 0x85b6                                  of descriptors 0 to 3 of the client that has the file
truncate 1 0x1bbae
switch                                                 the other client opens the file, this one closes it
"""

import random
from dataclasses import dataclass
from typing import Final

__all__ = ["DESCRIPTORS", "KINDS", "Op", "content", "draw", "parse"]

DESCRIPTORS: Final = ("r+", "r+", "r+ direct", "a+")
"""How the descriptors of a client are open."""

# kind: how often it is drawn, and the names of its numbers
KINDS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "read": (22, ("fd", "pos", "length")),
    "mapread": (6, ("fd", "pos", "length")),
    "write": (22, ("fd", "pos", "length", "tag")),
    "append": (3, ("length", "tag")),
    "race": (5, ("fd", "pos", "length", "tag", "other", "other_pos", "other_length")),
    "truncate": (4, ("fd", "size")),
    "punch": (4, ("fd", "pos", "length")),
    "allocate": (1, ("fd", "pos", "length", "tag")),
    "copy": (3, ("fd", "pos", "length", "other", "other_pos")),
    "fsync": (4, ("fd",)),
    "barrier": (0, ("fd",)),  # every other fsync, so that what comes after it in a run is drawn as before there were barriers
    "reopen": (3, ("fd",)),
    "drop": (3, ()),
    "switch": (1, ()),
    "restart": (1, ()),
    "spoil": (1, ("tag",)),
    "fault": (2, ("tag",)),
}


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: its kind and its numbers, by name."""

    kind: str
    numbers: tuple[int, ...]

    def __getitem__(self, name: str) -> int:
        return self.numbers[KINDS[self.kind][1].index(name)]

    def __str__(self) -> str:
        names = KINDS[self.kind][1]
        small = {"fd", "other", "tag"}
        texts = [str(n) if name in small else hex(n) for name, n in zip(names, self.numbers, strict=True)]
        return " ".join([self.kind, *texts])


def parse(line: str) -> Op:
    """Read a line. Raises: ValueError for one that is no operation."""
    kind, *words = line.split()
    if kind not in KINDS or len(words) != len(KINDS[kind][1]):
        raise ValueError(f"not an operation: {line!r}")
    return Op(kind, tuple(int(word, 0) for word in words))


def content(tag: int, length: int) -> bytes:
    """Return what an operation writes."""
    return random.Random(tag).randbytes(length)


def draw(rng: random.Random, size: int, most: int, longest: int, left_out: frozenset[str]) -> Op:
    """Draw the next operation on a file of `size` bytes, which stays below `most`; I/O has at most `longest` bytes."""
    kinds = [kind for kind in KINDS if kind not in left_out]
    kind = rng.choices(kinds, [KINDS[kind][0] for kind in kinds])[0]

    def span() -> tuple[int, int]:
        pos = rng.choice([0, rng.randrange(most), rng.randrange(most) & ~0xFFF, max(0, size - rng.randrange(5000)), size])
        length = rng.choice([1, rng.randrange(1, longest), rng.randrange(1, longest), 0x1000, longest // 2 & ~0xFFF or 1])
        return min(pos, most - 1), max(1, min(length, most - min(pos, most - 1)))

    drawn: dict[str, int] = {}
    drawn["fd"], drawn["other"] = rng.randrange(3), rng.randrange(3)
    drawn["pos"], drawn["length"] = span()
    drawn["other_pos"], drawn["other_length"] = span()
    drawn["tag"] = rng.randrange(1 << 20)
    drawn["size"] = rng.choice([0, rng.randrange(most), size // 2, min(size + 1, most), size & ~0xFFF])
    if kind == "copy":
        drawn["length"] = min(drawn["length"], most - drawn["other_pos"])
    if kind == "append":
        drawn["length"] = min(drawn["length"], max(1, most - size))
        if size >= most:
            kind = "fsync"
    if kind == "fsync" and drawn["tag"] % 2:
        kind = "barrier"
    return Op(kind, tuple(drawn[name] for name in KINDS[kind][1]))
