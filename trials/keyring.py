"""Trio shell. Fresh identities for one run: a server's and a client's that let each other in, in a folder that goes with them.

Owns no memory.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netfs.fs.url import parse_url
from transport.security import SEED_SIZE, Identity, KnownHosts, write_identity

__all__ = ["Keyring", "keyring"]


@dataclass(frozen=True, slots=True)
class Keyring:
    """Identities of both sides, and the paths of their files."""

    server: Identity
    client: Identity
    authorized_keys: Path
    known_hosts: Path

    def serve_options(self) -> list[str]:
        """Return what `netfs serve` is to be told."""
        return ["--identity", str(self.server.path), "--authorized-keys", str(self.authorized_keys)]

    def meet(self, url: str) -> None:
        """Have the client know the server at a URL."""
        KnownHosts(self.known_hosts).remember(parse_url(url).peer, self.server.fingerprint)


@contextmanager
def keyring() -> Iterator[Keyring]:
    """Make the keys for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="netfs-keys-") as name:
        folder = Path(name)
        server, client = (write_identity(folder / side, os.urandom(SEED_SIZE)) for side in ("server", "client"))
        keys = folder / "authorized_keys"
        keys.write_text(f"{client.fingerprint} trial\n")
        yield Keyring(server, client, keys, folder / "known_hosts")
