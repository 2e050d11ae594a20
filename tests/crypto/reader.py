"""A reader of stored files written from docs/file-format.md alone: it shares no code with the product, and imports none of it.

    python tests/crypto/reader.py EXPORT KEY-FILE [PATH]        lists a folder, or writes a file of it to standard output

Slow and plain on purpose. `Volume` opens what it is given; `Stored` finds that in a real folder a server has kept. A key file
opens it, with or without a volume header, or a passphrase given in Python.
"""

import hashlib
import hmac
import struct
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESOCB3, AESSIV, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

ZERO = bytes(32)
KINDS = {1: "file", 2: "directory", 3: "symlink"}
BODY = struct.Struct("<BBBBIQQQI32s32s32s32sIIIqq32s16s32sH")


class Object(Protocol):
    """What a server keeps of one object."""

    record: bytes
    data: bytes
    tags: bytes
    xattrs: bytes

    def entries(self) -> Iterator[tuple[str, bytes, "Object"]]:
        """Yield names as shown, certificates and objects of a directory."""
        ...


def expand(key: bytes, info: bytes, length: int) -> bytes:
    return hmac.digest(key, info + b"\1", "sha512")[:length]


def decrypt(suite: int, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    if suite == 1:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    if suite == 2:
        return AESOCB3(key).decrypt(nonce, sealed, aad)
    return ChaCha20Poly1305(key).decrypt(nonce, sealed, aad)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def xaes_open(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    """XAES-256-GCM of C2SP: a key derived from the first half of the nonce, AES-256-GCM with the second."""

    def aes(block: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)

    left = int.from_bytes(aes(bytes(16)), "big")
    k1 = ((left << 1) ^ (0x87 if left >> 127 else 0)) & ((1 << 128) - 1)
    derived = b""
    for counter in (1, 2):
        block = int.from_bytes(b"\0" + bytes([counter]) + b"X\0" + nonce[:12], "big") ^ k1
        derived += aes(block.to_bytes(16, "big"))
    return AESGCM(derived).decrypt(nonce[12:], sealed, aad)


def header_keys(header: bytes, key: bytes | None, passphrase: bytes | None) -> tuple[bytes, dict[int, bytes]]:
    """Return volume id and the key of each epoch from a volume's header."""
    lines = [line.split(" ") for line in header.decode("ascii").splitlines()]
    assert lines[0] == ["iovc-volume", "1"]
    named = {words[0]: words[1:] for words in lines}
    vol_id, epoch, owner = bytes.fromhex(named["volume"][0]), int(named["epoch"][0]), bytes.fromhex(named["owner"][0])
    signed = header[: header.index(b"signature ")]
    Ed25519PublicKey.from_public_bytes(owner).verify(bytes.fromhex(named["signature"][0]), b"iovc/1 header\0" + signed)
    slot = next(words for words in lines if words[0] == "slot")
    salt, commitment, wrapped = (bytes.fromhex(word) for word in slot[-3:])
    if slot[1] == "argon2id":
        memory, passes, lanes = (int(word) for word in slot[2:5])
        assert passphrase is not None
        both = Argon2id(salt=salt, length=64, iterations=passes, lanes=lanes, memory_cost=memory).derive(passphrase)
    else:
        assert key is not None
        both = expand(key, b"iovc/1 slot key\0" + salt, 64)
    assert both[32:] == commitment
    aad = b"iovc/1 vmk" + vol_id + u32(epoch) + owner + " ".join(slot[:-1]).encode()
    keys = {epoch: AESGCM(both[:32]).decrypt(bytes(12), wrapped, aad)[:32]}
    text = header[: header.index(b"mac ")]
    mac_key = expand(keys[epoch], b"iovc/1\0hdr\0" + vol_id + u32(epoch), 32)
    assert hmac.digest(mac_key, text, "sha256").hex() == named["mac"][0]
    for words in lines:
        if words[0] == "old":
            old = expand(keys[epoch], b"iovc/1\0old\0" + vol_id + u32(epoch), 32)
            epoch -= 1
            aad = b"iovc/1 old" + vol_id + u32(epoch)
            keys[epoch] = xaes_open(old, bytes.fromhex(words[1]), bytes.fromhex(words[2]), aad)
    return vol_id, keys


@dataclass
class Record:
    file_id: bytes
    kind: str
    suite: int
    log2bs: int
    depth: int
    size: int
    file_key: bytes
    root: bytes
    mode: int
    mtime_ns: int
    xattrs: bytes
    inline: bytes
    tail: bytes


class Volume:
    """The objects of a volume, opened."""

    def __init__(self, keys: dict[int, bytes], vol_id: bytes = bytes(16)) -> None:
        self.keys = keys
        self.vol_id = vol_id
        self.root_id = hashlib.sha256(b"iovc/1 root" + vol_id).digest()[:16] if any(vol_id) else None

    def derived(self, label: bytes, epoch: int, length: int = 32) -> bytes:
        return expand(self.keys[epoch], b"iovc/1\0" + label + b"\0" + self.vol_id + u32(epoch), length)

    def record(self, sealed: bytes, file_id: bytes | None = None) -> Record:
        magic, form, flags, epoch, key_id, found, nonce = struct.unpack_from("<4sHHI16s16s24s", sealed)
        assert (magic, form, flags) == (b"IOVC", 1, 0)
        assert found == file_id or file_id is None
        file_id = found
        assert key_id == self.derived(b"id", epoch, 16)
        assert len(sealed) in (448, 1024)
        aad = b"iovc/1 inode" + self.vol_id + file_id + u32(epoch)
        body = xaes_open(self.derived(b"inode", epoch), nonce, sealed[68:], aad)
        (
            kind, suite, log2bs, depth, _, _, size, _, zero, file_key, commitment, zeros, root,
            mode, _, _, mtime_ns, _, xattrs, _, _, nr_inline,
        ) = BODY.unpack_from(body)  # fmt: skip
        assert (zero, zeros) == (0, ZERO)
        assert commitment == expand(file_key, b"iovc/1 commit\0" + file_id, 32)
        tail = body[BODY.size :]
        return Record(
            file_id, KINDS[kind], suite, log2bs, depth, size, file_key, root, mode, mtime_ns, xattrs,
            tail[:nr_inline], tail,
        )  # fmt: skip

    # ---- content

    def content(self, record: Record, data: bytes, tags: bytes) -> bytes:
        """Return the plain bytes of a file, or the target of a link."""
        if record.inline:
            return record.inline
        blocks = (record.size + (1 << record.log2bs) - 1) >> record.log2bs
        level = [record.root]
        for up in range(record.depth, -1, -1):
            below: list[bytes] = []
            for index, digest in enumerate(level):
                page = tags[position(up, index) :][:4096] if digest != ZERO else bytes(4096)
                assert digest == ZERO or hashlib.sha256(page).digest() == digest, "a page of tags was changed"
                below += [page[at : at + 32] for at in range(0, 4096, 32)]
            level = below
        assert not any(any(entry) for entry in level[blocks:])
        return b"".join(self.block(record, data, n, entry) for n, entry in enumerate(level[:blocks]))[: record.size]

    def block(self, record: Record, data: bytes, block: int, entry: bytes) -> bytes:
        size = 1 << record.log2bs
        (state,) = struct.unpack_from("<I", entry, 28)
        if state == 0:
            assert entry == ZERO
            return bytes(size)
        assert state & 3 == 1
        rekey = state >> 2
        info = b"iovc/1 data\0" + record.file_id + u32(rekey) + u32(block >> 16) + bytes([record.suite, record.log2bs])
        key = expand(record.file_key, info, 32)
        aad = record.file_id + u64(block) + u32(rekey) + bytes([record.suite, record.log2bs, 0, 0])
        stored = data[block * size : (block + 1) * size]
        return decrypt(record.suite, key, entry[:12], stored + entry[12:28], aad)

    # ---- directories

    def entries(self, record: Record, listed: Iterator[tuple[str, bytes, Object]]) -> dict[str, tuple[Record, Object]]:
        """Return what a directory holds, its listing verified against its record."""
        dir_id, epoch, count, _, listing = struct.unpack_from("<16sIQQ32s", record.tail)
        siv = AESSIV(self.derived(b"names", epoch, 64))
        dir_key = self.derived(b"dir", epoch)
        found: dict[str, tuple[Record, Object]] = {}
        total = 0
        for shown, certificate, child in listed:
            form, kind, nr_long, number, file_id, proof = struct.unpack_from("<BBHQ16s32s", certificate)
            assert form == 1
            sealed = certificate[60 : 60 + nr_long]
            if shown[0] == "~":
                assert shown == "~" + urlsafe_b64encode(hashlib.sha256(sealed).digest()).rstrip(b"=").decode()
            else:
                sealed = urlsafe_b64decode(shown + "=" * (-len(shown) % 4))
            name = siv.decrypt(sealed, [b"name", dir_id]).rstrip(b"\0").decode("utf-8", "surrogateescape")
            text = dir_id + file_id + bytes([kind]) + u64(number) + sealed
            assert proof == hashlib.blake2b(text, digest_size=32, key=dir_key, person=b"iovc/1 entry").digest()
            term = hashlib.blake2b(text, digest_size=32, key=dir_key, person=b"iovc/1 listing").digest()
            total += int.from_bytes(term, "little")
            of_child = self.record(child.record, file_id)
            assert of_child.kind == KINDS[kind]
            found[name] = of_child, child
        assert len(found) == count
        assert total % (1 << 256) == int.from_bytes(listing, "little")
        return found

    def xattrs(self, record: Record, sealed: bytes) -> dict[str, bytes]:
        """Return the extended attributes of an object."""
        if record.xattrs == ZERO:
            return {}
        assert hashlib.sha256(sealed).digest() == record.xattrs
        key = expand(record.file_key, b"iovc/1 xattr\0" + record.file_id, 64)
        values = AESGCM(expand(record.file_key, b"iovc/1 xattr value\0" + record.file_id, 32))
        found, at = {}, 0
        while at < len(sealed):
            nr_name, nr_value = struct.unpack_from("<HI", sealed, at)
            name, nonce = sealed[at + 6 : at + 6 + nr_name], sealed[at + 6 + nr_name : at + 18 + nr_name]
            at += 18 + nr_name
            plain = AESSIV(key).decrypt(name, [b"xattr", record.file_id])
            found[plain.decode("utf-8", "surrogateescape")] = values.decrypt(
                nonce, sealed[at : at + nr_value], record.file_id + name
            )
            at += nr_value
        return found

    def walk(self, top: Object, path: str) -> tuple[Record, Object]:
        """Find an object below the volume's root."""
        record, found = self.record(top.record, self.root_id), top
        assert record.tail[68] == 1, "not the top of a volume"
        for name in path.split("/"):
            if name:
                record, found = self.entries(record, found.entries())[name]
        return record, found


def position(level: int, index: int) -> int:
    """Return where a page of the tag tree lies."""
    leaf = index << 7 * level if index or not level else 1 << 7 * (level - 1)
    number, rest = leaf - level, leaf
    while rest:
        rest >>= 7
        number += rest + 1
    return number * 4096


class Stored:
    """An object of a folder that a server has kept: `.netfs/` at its root has what is not the file itself."""

    def __init__(self, home: Path, path: Path) -> None:
        self.home = home
        self.path = path
        self.ino = path.lstat().st_ino
        self.record = self.beside("records")[8:]
        self.tags = self.beside("aux")
        self.xattrs = self.beside("blobs1")
        self.certificate = self.beside("blobs0")
        self.data = path.read_bytes() if path.is_file() else b""

    def beside(self, what: str) -> bytes:
        for kept in (self.home / what).iterdir() if (self.home / what).is_dir() else ():
            if struct.unpack_from("<QQ", bytes.fromhex(kept.name))[1] == self.ino:
                return kept.read_bytes()
        return b""

    def entries(self) -> Iterator[tuple[str, bytes, Object]]:
        for path in self.path.iterdir():
            if path.name not in (".netfs", ".netfs-volume"):
                child = Stored(self.home, path)
                yield path.name, child.certificate, child


def main(export: str, key_file: str, path: str = "") -> None:
    content = Path(key_file).read_bytes()
    key = content if len(content) == 32 else bytes.fromhex(content.decode().split()[1])
    header = Path(export) / ".netfs-volume"
    volume = Volume({0: key})
    if header.exists():
        vol_id, keys = header_keys(header.read_bytes(), key, None)
        volume = Volume(keys, vol_id)
    record, found = volume.walk(Stored(Path(export) / ".netfs", Path(export)), path)
    if record.kind == "directory":
        sys.stdout.write("".join(f"{name}\n" for name in sorted(volume.entries(record, found.entries()))))
    else:
        sys.stdout.buffer.write(volume.content(record, found.data, found.tags))


if __name__ == "__main__":
    main(*sys.argv[1:])
