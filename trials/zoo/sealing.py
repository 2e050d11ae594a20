"""Trio shell. Bugs of content encryption. Owns no memory."""

from typing import Any

from crypto.aead import NONCE_SIZE
from crypto.content import ContentCipher
from crypto.errors import IntegrityError
from iov.iov_iter import IovIter
from trials.sim.patches import Patches
from trials.zoo.bug import bug

__all__: list[str] = []


@bug("nonce-reuse", "crypto", "sharing", encrypt=True)
def _nonces(patches: Patches) -> None:
    """All blocks that are sealed in one go get the first one's nonce."""
    seal = ContentCipher.seal

    def sealed(
        self: ContentCipher, source: IovIter, area: memoryview, first: int, count: int, nonces: bytes, *rest: Any
    ) -> int:  # fmt: skip
        return seal(self, source, area, first, count, nonces[:NONCE_SIZE] * count, *rest)

    patches.set(ContentCipher, "seal", sealed)


@bug("zero-as-hole", "crypto", "tamper", encrypt=True)
def _tags(patches: Patches) -> None:
    """A block whose tag does not fit reads as a hole."""
    opened = ContentCipher._open_alike

    def believed(self: ContentCipher, *args: Any) -> None:
        try:
            opened(self, *args)
        except IntegrityError:
            return

    patches.set(ContentCipher, "_open_alike", believed)


@bug("nonces-are-counted", "crypto", "sharing", encrypt=True)
def _short(patches: Patches) -> None:
    """Nonces of blocks are counted from the start of each file's key instead of drawn."""
    seal = ContentCipher.seal

    def sealed(
        self: ContentCipher, source: IovIter, area: memoryview, first: int, count: int, nonces: bytes, *rest: Any
    ) -> int:  # fmt: skip
        counted = b"".join((first + at).to_bytes(NONCE_SIZE, "big") for at in range(count))
        return seal(self, source, area, first, count, counted, *rest)

    patches.set(ContentCipher, "seal", sealed)
