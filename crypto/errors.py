"""Sans-IO. The errors of content encryption; each carries an errno and says which file and block it speaks of.

The public edge (`netfs/errors.py`) turns them into `OSError` with the path. No text of theirs ever holds key material or
plaintext. Owns no memory.
"""

import errno

__all__ = ["CryptoError", "IntegrityError", "KeyUnavailable", "Malformed", "Rollback", "WrongKey"]

# Linux names these two; elsewhere the nearest POSIX errno stands in.
EKEYREJECTED: int = getattr(errno, "EKEYREJECTED", errno.EACCES)
ENOKEY: int = getattr(errno, "ENOKEY", errno.EACCES)


class CryptoError(Exception):
    """Base of this package's errors. file_id, block_no: what it speaks of, empty and -1 when that is not known."""

    file_id: bytes = b""
    block_no: int = -1

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.errno = code


class IntegrityError(CryptoError):
    """What the server returned is not what was written: changed, moved, old, cut off or of another file.

    file_id: the 16 bytes that name the file in its record, empty when not yet known. block_no: the first block concerned, -1
    for the record itself.
    """

    def __init__(self, text: str, *, file_id: bytes = b"", block_no: int = -1) -> None:
        where = "" if block_no < 0 else f", block {block_no}"
        super().__init__(errno.EBADMSG, f"{text} (file id {file_id.hex() or 'unknown'}{where})")
        self.file_id = file_id
        self.block_no = block_no


class Rollback(CryptoError):
    """The server returned a state of the file older than one this client has already seen."""

    def __init__(self, text: str, *, file_id: bytes = b"") -> None:
        super().__init__(errno.ESTALE, text)
        self.file_id = file_id


class WrongKey(CryptoError):
    """The file was written under another volume key."""

    def __init__(self, text: str) -> None:
        super().__init__(EKEYREJECTED, text)


class Malformed(CryptoError):
    """A key file or a record that does not follow the format, or follows a version of it we do not speak."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EPROTO, text)


class KeyUnavailable(CryptoError):
    """A key is needed and none was given, or the one given is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(ENOKEY, text)
