"""Trio shell. Lies about a volume's header: changed slots, cheaper or absurd costs, another owner, a slot that fits two secrets.

The header is a file like others; these change what a read of it gives. Memory: the answers they are given are copies.
"""

import os
import re
from dataclasses import replace
from functools import cached_property

from crypto.slots import Kdf, OwnerSlot, RawKey, Recipient
from crypto.volume import HEADER_NAME, new_volume, parse_header, unlock
from transport.messages import Attr, Handle
from trials.faults.tamper import Attack, attack

Rewrite = tuple[bytes, bytes]


class HeaderAttack(Attack):
    """A lie about the header of each volume."""

    def is_header(self, handle: Handle) -> bool:
        """Say whether an object is a header: clients have asked for it by its name."""
        place = self.server.names.get(handle)
        return place is not None and place.name == HEADER_NAME

    def lie(self, header: bytes) -> bytes:
        """Return the header that is shown."""
        raise NotImplementedError

    def data(self, handle: Handle, pos: int, content: bytearray, wanted: int) -> bytearray:
        if not self.is_header(handle):
            return content
        self.strike()
        return bytearray(self.lie(self.server.stream(handle))[pos : pos + wanted])

    def attr(self, handle: Handle, attr: Attr) -> Attr:
        if self.is_header(handle):
            attr.size = len(self.lie(self.server.stream(handle)))
        return attr


def changed(header: bytes, pattern: bytes, change: bytes) -> bytes:
    """Replace the first match of a pattern."""
    return re.sub(pattern, change, header, count=1, flags=re.MULTILINE)


@attack
class Slots(HeaderAttack):
    """A22."""

    ID = "A22"
    TEXT = "change the wrapped key or another byte of a slot, swap slots, cut the header, add a field"
    VARIANTS = ("wrapped", "salt", "commitment", "swap", "cut", "field", "signature", "mac", "epoch", "spelling")

    def lie(self, header: bytes) -> bytes:
        lines = header.split(b"\n")
        slots = [at for at, line in enumerate(lines) if line.startswith(b"slot ")]
        words = lines[slots[0]].split(b" ")
        match self.variant:
            case "wrapped" | "salt" | "commitment":
                at = {"wrapped": -1, "salt": -3, "commitment": -2}[self.variant]
                words[at] = flipped(words[at])
                lines[slots[0]] = b" ".join(words)
            case "swap":
                first = lines[slots[0]]
                lines[slots[0] : slots[-1] + 1] = [*lines[slots[0] + 1 : slots[-1] + 1], first]
            case "cut":
                return header[: len(header) // 2]
            case "field":
                lines.insert(slots[0], b"critical 1")
            case "epoch":
                return changed(header, rb"^epoch \d+$", b"epoch 7")
            case "spelling":
                return header.replace(b"\n", b"\r\n")
            case _:
                at = next(at for at, line in enumerate(lines) if line.startswith(self.variant.encode()))
                lines[at] = flipped(lines[at])
        return b"\n".join(lines)  # header: a volume's header


def flipped(word: bytes) -> bytes:
    """Change the last digit of a word."""
    return word[:-1] + (b"0" if word[-1:] != b"0" else b"1")


@attack
class OwnVolume(HeaderAttack):
    """A23."""

    ID = "A23"
    TEXT = "put a volume of the server's own in the place, with its key wrapped to the user's public keys"

    @cached_property
    def _forged(self) -> bytes:
        secret = RawKey(os.urandom(32))
        volume = unlock(new_volume(secret, os.urandom), secret, pinned=None)
        for recipient in self._recipients:
            header = volume.with_recipient(recipient)
            volume = unlock(header, secret, pinned=None)
        return volume.header.encode()

    @cached_property
    def _recipients(self) -> list[Recipient]:
        found = next(handle for handle in self.server.names if self.is_header(handle))
        slots = parse_header(self.server.stream(found)).recipient_slots
        return [slot.recipient for slot in slots]

    def lie(self, header: bytes) -> bytes:
        del header
        return self._forged


@attack
class Downgrade(HeaderAttack):
    """A26."""

    ID = "A26"
    TEXT = "offer a passphrase derivation that costs nothing, or suites, sizes and flags that protect nothing"
    VARIANTS = ("argon2", "scrypt", "suite", "no-suite", "version", "plain-names")

    def lie(self, header: bytes) -> bytes:
        pattern, change = {
            "argon2": (rb"^slot argon2id \d+ \d+ \d+", b"slot argon2id 8 1 1"),
            "scrypt": (rb"^slot argon2id", b"slot scrypt"),
            "suite": (rb"^suites .*$", b"suites 0"),
            "no-suite": (rb"^suites .*$", b"suites"),
            "version": (rb"^iovc-volume 1$", b"iovc-volume 0"),
            "plain-names": (rb"^(suites .*)$", rb"\1\nflags plain-names"),
        }[self.variant]
        return changed(header, pattern, change)


@attack
class Bomb(HeaderAttack):
    """A27."""

    ID = "A27"
    TEXT = "ask for a derivation or a header that no machine can pay"
    VARIANTS = ("memory", "passes", "lanes", "digits", "header", "records")

    def lie(self, header: bytes) -> bytes:
        if self.variant == "header":
            return header + b"#" * (64 << 20)
        costs = {
            "memory": b"67108864 3 4",
            "passes": b"65536 2147483648 4",
            "lanes": b"65536 3 16777215",
            "digits": b"9" * 4000 + b" 3 4",
        }.get(self.variant)
        return header if costs is None else changed(header, rb"^slot argon2id \d+ \d+ \d+", b"slot argon2id " + costs)

    def attr(self, handle: Handle, attr: Attr) -> Attr:
        if self.is_header(handle) and self.variant == "header":
            attr.size = 1 << 30
        return attr

    def record(self, handle: Handle, record: bytes) -> bytes:
        if self.variant == "records" and record:
            self.strike()
            return record + bytes((1 << 16) - len(record) - 1)
        return record


@attack
class TwoSecrets(HeaderAttack):
    """A28."""

    ID = "A28"
    TEXT = "craft a slot that several passphrases fit, to learn from one answer which the user's is not"

    def lie(self, header: bytes) -> bytes:
        # What a forger is free in: a wrapped key that would open under another passphrase, with that one's commitment.
        parsed = parse_header(header)
        kdf = parsed.owner_slot.kdf or Kdf(19 << 10, 1, 1)
        slot = OwnerSlot.wrap(parsed.scope, RawKey(bytes(32)), kdf, parsed.owner_slot.salt, os.urandom(64))
        crafted = OwnerSlot(parsed.owner_slot.kdf, parsed.owner_slot.salt, slot.commitment, slot.wrapped)
        return replace(parsed, owner_slot=crafted).encode()
