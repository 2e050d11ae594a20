"""Trio shell. Labelled random sub-streams of one seed: a new draw at one place does not shift the draws of another.

The seed of a stream is a BLAKE2b digest of the master seed and the label, so streams are independent of each other, of the
order they are asked for, of the process's hash seed and of the Python version. Owns no memory.
"""

import hashlib
import random

__all__ = ["Streams", "stream_seed"]


def stream_seed(seed: int, label: str) -> int:
    """Return the 64-bit seed of the stream `label` of the master seed."""
    digest = hashlib.blake2b(f"{seed}/{label}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Streams:
    """The generators of one seed, one per label."""

    __slots__ = ("_streams", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def rng(self, label: str) -> random.Random:
        """Return the generator of `label`, the same object each time."""
        found = self._streams.get(label)
        if found is None:
            found = self._streams[label] = random.Random(stream_seed(self.seed, label))
        return found

    def reseed(self, seed: int) -> None:
        """Let every generator, those that are in use too, go on as one of another master seed."""
        self.seed = seed
        for label, stream in self._streams.items():
            stream.seed(stream_seed(seed, label))
