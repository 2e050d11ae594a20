"""Trio shell. `netfs mount` and `netfs umount`: an export, or a folder or volume of one, as a folder of this machine.

The mount runs in a process of its own: this one starts it, waits until the folder can be used and tells how that went.
Owns no memory.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from netfs.cli.dialing import ANYBODY, Access, connected, remote_place
from netfs.cli.host import CommandError, Exit, Host, describe, failing
from netfs.cli.place import Place

if TYPE_CHECKING:
    from netfs.fs.client import Client

__all__ = ["register"]

MISSING = (
    "a mount needs pyfuse3 and libfuse: sudo apt install fuse3 libfuse3-dev pkg-config gcc python3-dev, then "
    "pip install 'netfs[fuse]'"
)


def register(host: Host) -> None:
    """Add the commands."""
    register_mount(host)
    register_umount(host)


def register_mount(host: Host) -> None:
    """Add `netfs mount`."""

    async def mount(
        url: str,
        folder: Path,
        /,
        *,
        foreground: bool = False,
        direct: bool = False,
        writeback: bool = False,
        read_only: bool = False,
        allow_other: bool = False,
        own: bool = False,
        attr_timeout: float = 1.0,
        log: Path | None = None,
        ready_fd: Annotated[int | None, Parameter(show=False)] = None,
        access: Access = ANYBODY,
    ) -> int:
        """Mount an export, or a folder of one, on an empty folder of this machine.

        It goes on in the background until netfs umount, or in the foreground until Ctrl-C. What was written is on the server when
        the file is closed.

        Args:
            url: what to mount.
            folder: where.
            foreground: stay; Ctrl-C unmounts.
            direct: read and write past the caches of the kernel and of netfs; large reads are then sent as they are asked.
            writeback: let the kernel gather small writes; others see them when the file is closed or they want it.
            read_only: refuse every change.
            allow_other: let other users of this machine see it (they may need user_allow_other in /etc/fuse.conf).
            own: show everything as yours.
            attr_timeout: seconds for which names and attributes are believed before the server is asked again.
            log: a file for what goes wrong while nobody is looking.
        """
        remote_place(url)
        if not folder.is_dir():  # noqa: ASYNC240 - nothing else goes on yet
            host.fail(Exit.LOCAL, f"{folder}: not a directory")
        if direct and writeback:
            host.fail(Exit.USAGE, "--direct and --writeback do not go together")
        if not foreground:
            return await _in_background(host, url, folder, access)
        word = Word(url, folder, ready_fd, log)
        ids = (os.getuid(), os.getgid()) if own else (None, None)
        await _stay(host, word, access, (direct, writeback, attr_timeout, *ids), allow_other=allow_other, read_only=read_only)
        return Exit.DONE

    host.command(
        mount,
        name="mount",
        examples=[
            "netfs mount netfs://127.0.0.1:2050/ ~/there",
            "netfs mount --passphrase netfs://files.example.org/vault ~/vault",
            "netfs umount ~/there",
        ],
    )


def register_umount(host: Host) -> None:
    """Add `netfs umount`."""

    async def umount(folder: Path, /) -> None:
        """Unmount what `netfs mount` has mounted; a folder in use is not unmounted.

        Args:
            folder: where it is mounted.
        """
        import trio  # noqa: PLC0415 - the help needs no event loop

        try:
            done = await trio.run_process(["fusermount3", "-u", str(folder)], capture_stderr=True, check=False)
        except OSError as error:
            raise CommandError(Exit.LOCAL, f"fusermount3: {describe(error, 'fusermount3')}; install the package fuse3") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().removeprefix("fusermount3: ")
            nothing = "Invalid argument" in said or "not found in" in said
            host.fail(Exit.LOCAL, f"{folder}: {'nothing is mounted there' if nothing else said}")

    host.command(umount, name="umount", examples=["netfs umount ~/there"])


@dataclass(frozen=True, slots=True)
class Word:
    """What to say when the folder can be used, and to whom: the process that started this one, or whoever looks."""

    url: str
    folder: Path
    ready_fd: int | None
    log: Path | None

    def say(self, host: Host) -> None:
        if self.ready_fd is None:
            text = f"{self.url} is mounted on {self.folder}  (Ctrl-C ends it)"
            host.emit({"url": self.url, "folder": str(self.folder)}, text)
        else:
            _leave_terminal(self.ready_fd, self.log)


async def _stay(
    host: Host,
    word: Word,
    access: Access,
    how: tuple[bool, bool, float, int | None, int | None],
    *,
    allow_other: bool,
    read_only: bool,
) -> None:
    """Mount, and serve the mount until it ends."""
    try:
        from netfs.fuse.attributes import MountOptions  # noqa: PLC0415 - needs pyfuse3
        from netfs.fuse.mounting import serve_mount  # noqa: PLC0415
    except ImportError as error:
        raise CommandError(Exit.LOCAL, f"{MISSING} ({error})") from None
    place = remote_place(word.url)
    async with connected(place, access, changes=[place]) as client:
        await _look(client, place)
        try:
            await serve_mount(
                client, place.path, word.folder, MountOptions(*how),
                name=word.url, allow_other=allow_other, read_only=read_only, ready=partial(word.say, host),
            )  # fmt: skip
        except RuntimeError as error:
            raise CommandError(Exit.LOCAL, f"{word.folder}: cannot be mounted: {error}") from None


async def _look(client: "Client", place: Place) -> None:
    """See that there is a directory to mount, as of a mount nobody could tell what is wrong with the place."""
    from transport.messages import FileType  # noqa: PLC0415 - as above

    with failing(Exit.REMOTE, str(place)):
        attr = await client.stat(place.path or "/")
    if attr.type is not FileType.DIRECTORY:
        raise CommandError(Exit.REMOTE, f"{place}: Not a directory")


async def _in_background(host: Host, url: str, folder: Path, access: Access) -> int:
    """Start this command line again as a process that stays, and wait for its word."""
    import trio  # noqa: PLC0415 - as above

    said, pid = await trio.to_thread.run_sync(_start, access.passphrase_fd, abandon_on_cancel=True)
    if not pid:
        return said
    text = f"{url} is mounted on {folder}  (netfs umount {folder} ends it)"
    host.emit({"url": url, "folder": str(folder), "pid": pid}, text)
    return Exit.DONE


def _start(passphrase_fd: int | None) -> tuple[int, int]:
    """Start the process of the mount. Returns: 0 and its number when the folder can be used, else its exit code and 0."""
    hear, tell = os.pipe()
    command = [sys.executable, "-m", "netfs", *sys.argv[1:], "--foreground", "--ready-fd", str(tell)]
    with os.fdopen(hear, "rb", buffering=0) as words:
        try:
            child = subprocess.Popen(command, pass_fds=(tell,) if passphrase_fd is None else (tell, passphrase_fd))
        except OSError as error:
            raise CommandError(Exit.LOCAL, describe(error)) from error
        finally:
            os.close(tell)
        if words.read(1):
            child.returncode = 0  # it stays: nobody waits for it
            return 0, child.pid
    return child.wait(), 0


def _leave_terminal(ready_fd: int, log: Path | None) -> None:
    """Tell the process that started this one, and let go of its terminal."""
    import logging  # noqa: PLC0415 - only a process in the background has no other way to say something

    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)
    if log is not None:
        logging.basicConfig(filename=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    os.write(ready_fd, b"1")
    os.close(ready_fd)
