"""Trio shell. Which kind of volume an export is opened as: plain files without a key, encrypted ones with it.

Owns no memory.
"""

import os
from typing import TYPE_CHECKING, Final, Literal

from iov.probe import Probe
from netfs.fs.plain import PlainVolume
from netfs.fs.volume import Volume
from transport.base import Transport
from transport.env import Env
from transport.user_files import user_state

if TYPE_CHECKING:
    from crypto.keys import VolumeKey

__all__ = ["DEFAULT_BLOCK_SIZE", "Level", "StateFolder", "volume_of"]

Level = Literal["local", "session", "inspect"]
StateFolder = str | os.PathLike[str] | None
DEFAULT_BLOCK_SIZE: Final = 1 << 14


def volume_of(
    transport: Transport, keys: "VolumeKey | None", env: Env, probe: Probe, rsize: int, wsize: int, block_size: int,
    freshness: Level, state: StateFolder,
) -> Volume:  # fmt: skip
    """Make the volume. Raises: as `open_freshness`."""
    if keys is None:
        return PlainVolume(transport, rsize, wsize)
    # The cipher's library is only loaded by those who need it.
    from netfs.fs.encrypted import EncryptedVolume  # noqa: PLC0415
    from netfs.fs.seen import open_freshness  # noqa: PLC0415

    folder = None if freshness == "session" else state or user_state("volumes")
    seen = open_freshness(folder, keys, env.nonces, tainted=freshness == "inspect")
    return EncryptedVolume(transport, keys, env, probe, rsize, wsize, block_size, seen)
