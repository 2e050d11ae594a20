"""Trio shell. known_volumes: which volume a user has seen at a place, and in which epoch.

One line for each: fingerprint, epoch, URL of the directory. It is what makes a server's word for "this is your volume"
worth something from the second time on. Replaced as a whole, so that an interrupted write leaves the old one. Owns no memory.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from netfs.cli.host import CommandError, Exit, failing

__all__ = ["Known", "KnownVolumes"]

FINGERPRINT_DIGITS = 64
IN_CLEAR = "/:[]+@"


@dataclass(frozen=True, slots=True)
class Known:
    """fingerprint: 32 bytes. epoch: the latest one seen."""

    fingerprint: bytes
    epoch: int


class KnownVolumes:
    """The file, read when made."""

    def __init__(self, path: Path) -> None:
        """Raises: CommandError when it cannot be read or says something else; nobody is trusted by a guess."""
        self.path = path
        self.volumes: dict[str, Known] = {}
        try:
            with failing(Exit.LOCAL, str(path)):
                lines = path.read_text("utf-8").splitlines() if path.exists() else []
            for line in lines:
                digits, epoch, place = line.split(" ")
                if len(digits) != FINGERPRINT_DIGITS:
                    raise ValueError
                self.volumes[unquote(place)] = Known(bytes.fromhex(digits), int(epoch))
        except ValueError:
            raise CommandError(Exit.LOCAL, f"{path}: a line is not 'fingerprint epoch URL'") from None

    def remember(self, place: str, known: Known) -> None:
        """Note a volume, unless that is known already. Raises: CommandError."""
        if self.volumes.get(place) == known:
            return
        self.volumes[place] = known
        lines = [f"{each.fingerprint.hex()} {each.epoch} {quote(where, safe=IN_CLEAR)}\n" for where, each in self.volumes.items()]
        with failing(Exit.LOCAL, str(self.path)):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(fd, "w", encoding="utf-8") as stream:
                    stream.writelines(lines)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.replace(self.path)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
