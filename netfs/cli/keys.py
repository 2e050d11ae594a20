"""Trio shell. `netfs keygen`: a fresh key for an encrypted folder.

The key passes through this process and is not kept. Owns no memory.
"""

import os
from contextlib import suppress
from pathlib import Path

from netfs.cli.host import Exit, Host, failing

__all__ = ["register"]


def register(host: Host) -> None:
    """Add the command."""

    def keygen(file: str, /) -> None:
        """Write a fresh key to a new file that only you may read.

        Whoever has the file can read what it encrypts; without it nobody can, you included. Keep a copy in a safe place.

        Args:
            file: the file to create; one that exists is never replaced.
        """
        from crypto.aead import KEY_SIZE  # noqa: PLC0415 - cryptography takes a while to load
        from crypto.keys import format_key_file, load_key_file  # noqa: PLC0415
        from transport.env import system_env  # noqa: PLC0415

        text = format_key_file(system_env().nonces(KEY_SIZE))
        with failing(Exit.LOCAL, file):
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "wb") as stream:
                    stream.write(text)
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError:
                with suppress(OSError):
                    Path(file).unlink()
                raise
        host.emit({"file": file, "key_id": load_key_file(text).key_id.hex()})

    host.command(
        keygen,
        name="keygen",
        examples=["netfs keygen my.key", "netfs cp --key-file my.key -r secrets netfs://127.0.0.1:7777/vault"],
    )
