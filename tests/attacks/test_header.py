"""Attacks on a volume's header: A22, A23, A23b, A24, A26, A27, A28, and what a wrong secret is told."""

import errno
import os
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from crypto.aead import Aead, XaesGcm
from crypto.errors import CryptoError, Malformed, WrongKey
from crypto.keys import FileKey, VolumeKey
from crypto.slots import FLOOR_KDF, Identity, OwnerSecret, Passphrase, RawKey
from crypto.volume import new_volume, parse_header, unlock
from iov.probe import Probe
from netfs.fs.client import Client, open_client
from netfs.fs.volumes import create_header, open_volume
from servers.stores.memory import MemoryStore
from tests.attacks.scene import OLD, PROTO, REJECTED, fails, get, put, variants
from transport.base import Limits, Transport
from transport.env import system_env
from transport.stream import connect_stream
from trials.faults.tamper import Tamper
from trials.faults.tamper_header import TwoSecrets
from trials.world import RealWorld

NOKEY = getattr(errno, "ENOKEY", errno.EACCES)
BOB = Identity(b"b" * 32)
EVE = Identity(b"e" * 32)
TYPED = Passphrase(b"correct horse")


class Counted:
    """How often anything was encrypted."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        seal, init = XaesGcm.seal, Aead.__init__

        def counted_seal(aead: XaesGcm, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
            self.count += 1
            return seal(aead, nonce, plain, aad)

        def counted_init(aead: Aead, *args: object) -> None:
            self.count += 1
            init(aead, *args)  # type: ignore[arg-type]

        patch.setattr(XaesGcm, "seal", counted_seal)
        patch.setattr(Aead, "__init__", counted_init)


class Town:
    """A server with a volume, and a way to its clients."""

    def __init__(self, tamper: Tamper, nursery: trio.Nursery) -> None:
        self.tamper = tamper
        self.store = MemoryStore()
        self.server = tamper.server(self.store, system_env(), Probe(), Limits())
        self.nursery = nursery

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Transport]:
        ours, theirs = RealWorld().link("client", "server")
        self.nursery.start_soon(self.server.serve_connection, theirs)
        async with connect_stream(ours, system_env(), Probe(), Limits()) as transport:
            yield transport

    @asynccontextmanager
    async def opened(self, secret: OwnerSecret | Identity, *, pinned: bytes | None) -> AsyncIterator[Client]:
        async with self.wire() as transport:
            async with open_volume(transport, secret, pinned=pinned, freshness="session") as client:
                yield client


@asynccontextmanager
async def town(name: str, variant: str, secret: OwnerSecret = TYPED) -> AsyncIterator[tuple[Town, bytes]]:
    """A volume of `secret`, open to Bob and Eve as well, with a file; yields its fingerprint too."""
    header = new_volume(secret, os.urandom, kdf=FLOOR_KDF)
    for recipient in (BOB.recipients[0], EVE.recipients[1]):
        header = unlock(header, secret, pinned=None).with_recipient(recipient)
    async with trio.open_nursery() as nursery:
        made = Town(Tamper(name, variant, armed=False), nursery)
        async with made.wire() as transport, open_client(transport) as plain:
            await create_header(plain, "/", header)
        async with made.opened(BOB, pinned=header.fingerprint) as client:
            await put(client, "/file", b"secret")
        yield made, header.fingerprint
    made.store.close()


@variants("A22")
@pytest.mark.parametrize("secret", [TYPED, BOB], ids=["passphrase", "identity"])
async def test_a22_changed_slots(variant: str, secret: OwnerSecret | Identity) -> None:
    async with town("A22", variant) as (made, fingerprint):
        made.tamper.attack.armed = True
        for pinned in (fingerprint, None):
            async with fails(REJECTED, PROTO, OLD):
                async with made.opened(secret, pinned=pinned):
                    pass
        assert made.tamper.attack.struck
        made.tamper.attack.armed = False
        async with made.opened(secret, pinned=fingerprint) as client:
            assert await get(client, "/file") == b"secret"


async def test_a23_a_volume_of_the_servers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with town("A23", "") as (made, fingerprint):
        made.tamper.attack.armed = True
        counted = Counted(monkeypatch)
        before = {handle: kept[-1] for handle, kept in made.tamper.store.kept.items()}
        async with fails(REJECTED):
            async with made.opened(BOB, pinned=fingerprint) as client:
                await put(client, "/more", b"for whom?")
        assert made.tamper.attack.struck
        assert not counted.count, "something was encrypted under the server's key"
        assert {handle: kept[-1] for handle, kept in made.tamper.store.kept.items()} == before
        # On a first use, with nothing pinned, nobody can tell: which is why the fingerprint is shown then.
        with pytest.raises(OSError):
            async with made.opened(TYPED, pinned=None):
                pass


def test_a23b_no_public_key_is_ever_asked_of_a_server() -> None:
    """A recipient is a file of the owner's own choice; no message of the protocol carries a public key."""
    from crypto.slots import parse_recipients
    from transport.opcodes import Op

    assert not {op.name for op in Op if "KEY" in op.name or "RECIPIENT" in op.name}
    mallory = Identity(b"m" * 32)
    header = unlock(new_volume(RawKey(b"k" * 32), os.urandom), RawKey(b"k" * 32), pinned=None).with_recipient(BOB.recipients[0])
    assert mallory.recipients[0].fingerprint != BOB.recipients[0].fingerprint
    # What stands in the header for Bob is his public key, whole; another one is another recipient, and shown as one.
    assert [slot.recipient for slot in header.recipient_slots] == [BOB.recipients[0]]
    for junk in (b"", b"iovc-recipient-1 x25519 00\n", b"iovc-recipient-1 rot13 " + b"00" * 32):
        with pytest.raises(Malformed):
            parse_recipients(junk)


@pytest.mark.chosen_nonces
def test_a24_no_two_keys_are_the_same() -> None:
    """Every key that one secret leads to differs from every other, for other volumes and epochs too."""
    keys: list[bytes] = []
    for vol_id, epoch in ((bytes(16), 0), (b"v" * 16, 1), (b"v" * 16, 2), (b"w" * 16, 1)):
        key = VolumeKey(b"s" * 32, vol_id, epoch)
        values = (getattr(key, name) for name in VolumeKey.__slots__)
        keys += [value for value in values if isinstance(value, bytes) and value != vol_id]
        probe = b"probe"
        keys += [key.inode.seal(bytes(24), probe, b""), key.names.encrypt(probe, None)]
    assert len(keys) == len(set(keys)) >= 4 * 6
    file = FileKey(b"f" * 32, b"i" * 16, suite=VolumeKey(b"s" * 32).suites[0], log2bs=12)
    assert file.subkey(0, 0) is file.subkey(0, 65535)
    assert file.subkey(0, 0) is not file.subkey(0, 65536)
    assert file.subkey(0, 0) is not file.subkey(1, 0)


@variants("A26")
async def test_a26_downgrades(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = watch_derivations(monkeypatch)
    async with town("A26", variant) as (made, fingerprint):
        made.tamper.attack.armed = True
        derived.clear()
        for secret in (TYPED, BOB):
            for pinned in (fingerprint, None):
                async with fails(PROTO, REJECTED):
                    async with made.opened(secret, pinned=pinned):
                        pass
        assert made.tamper.attack.struck
        assert not derived, "a cost that the server chose was paid"


@variants("A27")
async def test_a27_bombs(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = watch_derivations(monkeypatch)
    async with town("A27", variant) as (made, fingerprint):
        derived.clear()
        made.tamper.attack.armed = True
        resident, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        async with fails(PROTO, errno.EMSGSIZE):
            async with made.opened(BOB if variant == "records" else TYPED, pinned=fingerprint) as client:
                await client.stat("/file")
                await get(client, "/file")
        assert made.tamper.attack.struck or variant == "header"
        if variant != "header":  # where the attack itself makes 64 MiB of it
            assert time.process_time() - began < 1, "milliseconds, and not as much work as the server likes"
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 32 << 10, "KiB"
        assert not derived


def test_a28_a_slot_that_several_secrets_fit() -> None:
    header = new_volume(RawKey(b"k" * 32), os.urandom)
    crafted = parse_header(TwoSecrets.lie(object.__new__(TwoSecrets), header.encode()))
    for secret in (RawKey(b"k" * 32), RawKey(bytes(32)), RawKey(b"x" * 32)):
        with pytest.raises(CryptoError) as caught:
            unlock(crafted, secret, pinned=header.fingerprint)
        assert type(caught.value) is WrongKey
        assert "signed" in str(caught.value), "refused before any secret is tried"
    # And with a signature of its own, under its own owner: the commitment stands before anything is unwrapped.
    theirs = new_volume(RawKey(b"m" * 32), os.urandom)
    messages = set()
    for secret in (RawKey(b"k" * 32), RawKey(b"x" * 32)):
        with pytest.raises(WrongKey) as wrong:
            unlock(theirs, secret, pinned=None)
        messages.add(str(wrong.value))
    assert messages == {"wrong key file"}, "one answer, whatever the secret"


def watch_derivations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note every derivation of a passphrase, by its memory in KiB."""
    from crypto import slots

    costs: list[int] = []
    real = getattr(slots, "Argon2id")  # noqa: B009 (it is not exported)

    def watched(**options: int) -> object:
        costs.append(options["memory_cost"])
        return real(**options)

    monkeypatch.setattr(slots, "Argon2id", watched)
    return costs


async def test_wrong_secrets_are_told_apart_and_nothing_is_made() -> None:
    async with town("A22", "") as (made, fingerprint):
        before = dict(made.tamper.store.kept)
        for secret, code in ((Passphrase(b"wrong"), REJECTED), (RawKey(b"k" * 32), NOKEY), (Identity(b"z" * 32), NOKEY)):
            async with fails(code):
                async with made.opened(secret, pinned=fingerprint) as client:
                    await put(client, "/file", b"overwritten")
        async with fails(REJECTED):
            async with made.opened(BOB, pinned=b"p" * 32):
                pass
        assert dict(made.tamper.store.kept) == before
        async with made.opened(TYPED, pinned=fingerprint) as client:
            assert await get(client, "/file") == b"secret"
