"""Sans-IO. How a folder's store maps what clients ask for: which permissions they may give, and which names.

Owns no memory.
"""

import errno
import re
from dataclasses import dataclass
from typing import Final

from servers.stores.base import PERMISSIONS

__all__ = ["AS_ASKED", "NamesAndModes", "parse_mask"]

_OCTAL: Final = re.compile(r"(0o|0)?[0-7]{1,4}")


@dataclass(frozen=True, slots=True)
class NamesAndModes:
    """mode_mask: the permissions a client can give a file or directory; others are left out without a word, as by a umask.

    utf8_names: new names are UTF-8; what is there already keeps its name, and can be renamed.
    """

    mode_mask: int = PERMISSIONS
    utf8_names: bool = False

    def check_new(self, name: str) -> None:
        """Refuse to give a name. Raises: EILSEQ, as filesystems do that know one encoding."""
        if self.utf8_names and not name.isascii() and any("\ud800" <= one <= "\udfff" for one in name):
            raise OSError(errno.EILSEQ, "names are UTF-8 here", ascii(name))


AS_ASKED: Final = NamesAndModes()


def parse_mask(text: str) -> int:
    """Read permissions in octal, such as 0750. Raises: ValueError."""
    if not _OCTAL.fullmatch(text):
        raise ValueError(f"mode_mask: expected permissions in octal, such as 0750, got {text!r}")
    return int(text.removeprefix("0o"), 8)
