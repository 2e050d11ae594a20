"""Trio shell. `netfs volume accept-rollback`: what was seen of a volume is forgotten, after somebody has confirmed it.

Owns no memory.
"""

import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from netfs.cli.dialing import Access, connected
from netfs.cli.host import Exit, Host, failing
from netfs.cli.place import Place
from netfs.cli.unlocking import has_terminal, keys_of, secret_of
from netfs.fs.seen import SeenLog, log_path
from transport.env import system_env
from transport.user_files import user_state

if TYPE_CHECKING:
    from crypto.keys import VolumeKey

__all__ = ["accept"]


async def accept(host: Host, place: Place, access: Access, *, yes: bool) -> None:
    """Forget what was seen of the volume a place lies in."""
    if not (yes or (has_terminal() and sys.stdin.isatty())):
        host.fail(Exit.USAGE, "no terminal to ask at; say --yes if it is meant")
    secret = await secret_of(access)
    bare = replace(access, key_file=None, passphrase=False, passphrase_fd=None)
    async with connected(place, bare) as client:
        key, _ = await keys_of(client, place, (), secret, access.fingerprint, any_epoch=True)
    log = readable_log(key)
    try:
        rollbacks, files = len(log.marks.tainted), len(log.marks)
        host.note(f"{place}: {rollbacks:,} rollbacks seen; {files:,} objects would be believed as the server shows them now")
        if not yes and not await confirmed():
            host.fail(Exit.NO, f"{place}: nothing was accepted")
        with failing(Exit.LOCAL, str(log.path)):
            log.accept(system_env().wall_ns())
    finally:
        log.close()
    host.emit({"url": str(place), "rollbacks": rollbacks, "files": files, "accepted": True}, "accepted")


def readable_log(key: "VolumeKey") -> SeenLog:
    """Open the log of what was seen; one that cannot be believed any more is set aside, and begun anew."""
    from crypto.errors import CryptoError  # noqa: PLC0415 - cryptography takes a while to load

    path = log_path(user_state("volumes"), key)
    fresh = system_env().nonces
    with failing(Exit.LOCAL, str(path)):
        try:
            return SeenLog(path, key, fresh)
        except CryptoError:
            with suppress(FileNotFoundError):
                path.replace(path.with_suffix(".old"))
        return SeenLog(path, key, fresh)


async def confirmed() -> bool:
    """Ask a person at the terminal."""
    print("type yes to accept that: ", end="", file=sys.stderr, flush=True)  # noqa: T201
    answer: str = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return answer.strip() == "yes"
