"""A ledger of every encryption of a test: no key may meet a nonce twice."""

from collections.abc import Iterator

import pytest

from crypto import aead, keys


class Ledger:
    """What was encrypted under which key and nonce."""

    def __init__(self) -> None:
        self.seen: set[tuple[bytes, bytes]] = set()

    def note(self, key: bytes, nonce: bytes) -> None:
        assert (key, nonce) not in self.seen, "a nonce was used twice under one key"
        self.seen.add((key, nonce))


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Watch all content encryption of a test."""
    book = Ledger()

    class Watched(aead.Aead):
        def __init__(self, suite: aead.Suite, key: bytes) -> None:
            super().__init__(suite, key)
            plain = self.encrypt_into

            def encrypt_into(nonce: aead.Bytes, data: aead.Bytes, aad: aead.Bytes, out: memoryview) -> int:
                book.note(key, bytes(nonce))
                return plain(nonce, data, aad, out)

            self.encrypt_into = encrypt_into

    monkeypatch.setattr(keys, "Aead", Watched)
    yield book
    assert book.seen, "nothing was encrypted"
