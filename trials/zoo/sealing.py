"""Trio shell. Bugs of content encryption. Owns no memory."""

from typing import Any

from crypto.aead import NONCE_SIZE
from crypto.content import ContentCipher
from crypto.errors import IntegrityError
from iov.iov_iter import IovIter
from trials.sim.patches import Patches
from trials.zoo.bug import bug

__all__: list[str] = []


@bug("nonce-reuse", "crypto", "sharing", encrypt=True, seeds=20)
def _nonces(patches: Patches) -> None:
    """All blocks that are sealed in one go get the first one's nonce."""
    seal = ContentCipher.seal

    def sealed(
        self: ContentCipher, source: IovIter, area: memoryview, first: int, count: int, nonces: bytes, *rest: Any
    ) -> int:  # fmt: skip
        return seal(self, source, area, first, count, nonces[:NONCE_SIZE] * count, *rest)

    patches.set(ContentCipher, "seal", sealed)


@bug("tag-is-not-checked", "crypto", "sharing", encrypt=True)
def _tags(patches: Patches) -> None:
    """A block whose tag does not fit is given out all the same."""
    opened = ContentCipher._open_alike

    def believed(self: ContentCipher, *args: Any) -> None:
        try:
            opened(self, *args)
        except IntegrityError:
            return

    patches.set(ContentCipher, "_open_alike", believed)
