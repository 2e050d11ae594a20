"""The TLS stream over a socketpair: bytes come as they were sent, waits end, and every end that is none is an error."""

import datetime as dt
import errno
import random
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from iov.probe import Probe
from tests.transport.secure import ENV, client_side, identity, server_side, shaken
from transport.errors import HelloMismatch, NotTrusted, TransportError
from transport.security import ALPN, client_context, issue, peer_fingerprint, server_context
from transport.tls import RECORD, TlsStream

MIB = 1 << 20


@asynccontextmanager
async def streams(buffer: int | None = None) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Yield both ends, after the handshake; `buffer` makes the sockets small."""
    near, far = socket.socketpair()
    if buffer is not None:
        for sock in (near, far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    client, server = client_side(near), server_side(far)
    await shaken(client, server)
    try:
        yield client, server
    finally:
        client.close()
        server.close()


async def send(stream: TlsStream, content: Sequence[bytes | memoryview]) -> None:
    """Send all pieces as a frame writer does: what is left comes again, from where it stopped."""
    pieces = list(content)
    while pieces:
        length = stream.send_nowait(pieces)
        if not length:
            await stream.wait_writable()
        while pieces and length >= len(pieces[0]):
            length -= len(pieces.pop(0))
        if length:
            pieces[0] = memoryview(pieces[0])[length:]


async def receive(stream: TlsStream, count: int, step: int = 1 << 16) -> bytearray:
    content = bytearray()
    buffer = memoryview(bytearray(step))
    while len(content) < count:
        length = stream.recv_nowait([buffer[: step // 3], buffer[step // 3 :]])
        if length is None:
            await stream.wait_readable()
        elif not length:
            break
        else:
            content += buffer[:length]
    return content


@pytest.mark.parametrize("seed", range(6))
async def test_bytes_come_as_they_were_sent(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice([1, 24, 700, 4096, RECORD - 1, RECORD, RECORD + 1, 40_000, 600_000]) for _ in range(40)]
    pieces: list[bytes | memoryview] = [rng.randbytes(size) for size in sizes]
    content = b"".join(pieces)
    async with streams(rng.choice([None, 4608, 40_000])) as (client, server):
        sender, receiver = (client, server) if seed % 2 else (server, client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, sender, pieces)
            assert await receive(receiver, len(content), rng.choice([7_000, 65_536, 2 * MIB])) == content


async def test_both_ways_at_once() -> None:
    content = random.Random(0).randbytes(3 * MIB)

    async def check(stream: TlsStream) -> None:
        assert await receive(stream, len(content)) == content

    pieces: list[bytes | memoryview] = [content[:100], memoryview(content)[100:]]
    async with streams(8000) as (client, server), trio.open_nursery() as nursery:
        for stream in (client, server):
            nursery.start_soon(send, stream, pieces)
            nursery.start_soon(check, stream)


async def test_small_pieces_are_joined_and_counted_and_large_ones_are_not() -> None:
    near, far = socket.socketpair()
    probe = Probe()
    client, server = client_side(near, probe), server_side(far)
    await shaken(client, server)
    client.send_nowait([b"a" * 24, b"b" * 1000, b"c" * 3000])
    assert (probe.payload_copies, probe.copied_bytes) == (1, 4024)
    client.send_nowait([b"h" * 24, memoryview(bytes(RECORD)), b"t" * 10])
    assert probe.copied_bytes == 4024
    assert len(await receive(server, 4024 + 34 + RECORD)) == 4024 + 34 + RECORD
    client.close()
    server.close()


async def test_a_blocked_piece_comes_again_as_it_was() -> None:
    """More has been queued behind it meanwhile; what was sealed is neither joined nor counted a second time."""
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    probe = Probe()
    client, server = client_side(near, probe), server_side(far)
    await shaken(client, server)
    small: list[bytes | memoryview] = [bytes([number]) * 1000 for number in range(40)]
    sent = 0
    while length := client.send_nowait(small[sent // 1000 : sent // 1000 + 10]):
        assert length % 1000 == 0
        sent += length
    counted = probe.copied_bytes
    assert counted == sent + 10_000
    for _ in range(3):
        assert client.send_nowait(small[sent // 1000 :]) == 0
    assert probe.copied_bytes == counted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, client, small[sent // 1000 :])
        assert await receive(server, 40_000) == b"".join(small)
    client.close()
    server.close()


async def test_what_tls_has_already_read_is_readable() -> None:
    async with streams() as (client, server):
        client.send_nowait([b"x" * 5000])
        await server.wait_readable()
        one = memoryview(bytearray(1))
        for _ in range(5000):
            with trio.fail_after(60):
                await server.wait_readable()
            assert server.recv_nowait([one]) == 1
        assert server.recv_nowait([one]) is None


async def test_two_tasks_may_wait_for_one_direction() -> None:
    """TLS may have sender and receiver wait for the same thing, which Trio allows to one task alone."""
    async with streams() as (client, server):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(server.wait_readable)
                await trio.testing.wait_all_tasks_blocked()
                client.send_nowait([b"x"])


async def test_one_who_waits_and_is_cancelled_wakes_the_others() -> None:
    async with streams() as (_, server), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def first() -> None:
            with scope:
                await server.wait_readable()

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.wait_readable)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()


class Moody(ssl.SSLSocket):
    """A socket on which TLS has something of its own to do first."""

    moods: ClassVar[list[Exception]] = []

    def send(self, data: object, flags: int = 0) -> int:
        if self.moods:
            raise self.moods.pop()
        return super().send(data, flags)  # type: ignore[arg-type]

    def recv_into(self, buffer: object, nbytes: int | None = None, flags: int = 0) -> int:
        if self.moods:
            raise self.moods.pop()
        return super().recv_into(buffer, nbytes, flags)  # type: ignore[arg-type]


async def test_each_direction_may_wait_for_the_other(tmp_path: Path) -> None:
    context = client_context(identity(tmp_path, "client"))
    context.sslsocket_class = Moody
    near, far = socket.socketpair()
    client, server = client_side(near, context=context), server_side(far)
    await shaken(client, server)
    buffer = memoryview(bytearray(10))
    Moody.moods.append(ssl.SSLWantWriteError())
    assert client.recv_nowait([buffer]) is None
    with trio.fail_after(60):  # nothing is there to read, but there is room to write
        await client.wait_readable()
    Moody.moods.append(ssl.SSLWantReadError())
    assert client.send_nowait([b"abc"]) == 0
    with trio.move_on_after(0.05) as scope:  # there is room to write, but nothing to read
        await client.wait_writable()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.wait_readable)
        nursery.start_soon(client.wait_writable)
        await trio.testing.wait_all_tasks_blocked()
        server.send_nowait([b"x"])
    assert client.recv_nowait([buffer]) == 1
    assert client.send_nowait([b"abc"]) == 3
    assert client.recv_nowait([buffer]) is None
    with trio.fail_after(60):
        await client.wait_writable()
    assert await receive(server, 3) == b"abc"
    client.close()
    server.close()


async def test_key_updates(tmp_path: Path) -> None:
    """Another implementation's client changes keys, and asks us to, between and under the data."""
    mine = str(identity(tmp_path, "client").path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-alpn", ALPN, "-msg", "-tls1_3"]
        try:
            peer = await trio.lowlevel.open_process([*command, "-cert", mine, "-key", mine], stdin=-1, stdout=-1, stderr=-2)
        except FileNotFoundError:
            pytest.skip("there is no openssl here")
        sock, _ = await trio.to_thread.run_sync(listener.accept)
    server = server_side(sock)
    assert peer.stdin is not None and peer.stdout is not None
    shown = bytearray()
    try:
        with trio.fail_after(120):
            await server.handshake(ENV)
            for number in range(1, 4):
                await peer.stdin.send_all(b"hello\n")
                assert await receive(server, 6) == b"hello\n"
                await peer.stdin.send_all(b"K\n")
                while shown.count(b">>> TLS 1.3, Handshake [length 0005], KeyUpdate") < number:
                    shown += await peer.stdout.receive_some()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send, server, [bytes(100_000), b"end %d\n" % number])
                    while b"end %d\n" % number not in shown:
                        shown += await peer.stdout.receive_some()
    finally:
        server.close()
        peer.kill()
        with trio.CancelScope(shield=True):
            await peer.wait()
        await peer.stdin.aclose()
        await peer.stdout.aclose()


# ---- ends


async def test_goodbye_is_the_end_of_the_stream() -> None:
    async with streams() as (client, server):
        client.send_nowait([b"last"])
        client.close()
        assert await receive(server, 100) == b"last"
        assert server.recv_nowait([memoryview(bytearray(1))]) == 0


async def test_a_cut_is_an_error_and_not_an_end() -> None:
    near, far = socket.socketpair()
    breaker = near.dup()
    client, server = client_side(near), server_side(far)
    await shaken(client, server)
    client.send_nowait([b"withdraw 10", b"00 euro"])
    with breaker:
        breaker.shutdown(socket.SHUT_WR)  # what somebody in between can do without a key
    with pytest.raises(TransportError, match="cut the connection") as caught:
        await receive(server, 100)
    assert caught.value.errno == errno.ECONNRESET
    client.close()
    server.close()


async def test_a_changed_bit_is_an_error() -> None:
    near, far = socket.socketpair()
    meddler = near.dup()
    client, server = client_side(near), server_side(far)
    await shaken(client, server)
    with meddler:
        # A record as TLS 1.3 frames it, sealed by nobody who has the key.
        meddler.send(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(TransportError, match="TLS failed while receiving") as caught:
        await receive(server, 100)
    assert "\n" not in str(caught.value)
    client.close()
    server.close()


async def test_closed_streams() -> None:
    async with streams() as (client, server):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await server.wait_readable()

            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            server.close()
        server.close()
        with pytest.raises(OSError) as caught:
            server.send_nowait([b"x"])
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError) as caught:
            server.recv_nowait([memoryview(bytearray(1))])
        assert caught.value.errno == errno.EBADF
        with pytest.raises(trio.ClosedResourceError):
            await server.wait_writable()
        with pytest.raises(TransportError):
            await send(client, [b"x" * MIB] * 8)


# ---- handshakes


async def attempt(client: TlsStream, server: TlsStream) -> tuple[Exception | None, Exception | None]:
    """Do both halves of a handshake; return what each came to."""
    found: dict[str, Exception | None] = {"client": None, "server": None}

    async def half(name: str, stream: TlsStream) -> None:
        try:
            await stream.handshake(ENV)
            if name == "client":  # in TLS 1.3 a client learns of a refusal only when it reads
                await stream.wait_readable()
                stream.recv_nowait([memoryview(bytearray(1))])
            else:
                stream.send_nowait([b"x"])
        except TransportError as error:
            found[name] = error
            stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(half, "client", client)
        nursery.start_soon(half, "server", server)
    client.close()
    server.close()
    for error in found.values():
        assert error is None or "\n" not in str(error)
    return found["client"], found["server"]


async def test_each_learns_the_others_key(tmp_path: Path) -> None:
    mine, theirs = identity(tmp_path, "client"), identity(tmp_path, "server")
    near, far = socket.socketpair()
    client = client_side(near, context=client_context(mine))
    server = server_side(far, context=server_context(theirs))
    await shaken(client, server)
    assert (client.fingerprint, server.fingerprint) == (theirs.fingerprint, mine.fingerprint)
    client.close()
    server.close()


def stranger(protocol: int, path: Path | None = None, alpn: str = ALPN) -> ssl.SSLContext:
    """Return a context as somebody else sets it up: no peer is verified."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    if path is not None:
        context.load_cert_chain(path)
    return context


def write_chain(path: Path, key: Ed25519PrivateKey, certificate: x509.Certificate) -> Path:
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    path.write_bytes(text)
    return path


def self_signed(path: Path) -> Path:
    """Write a certificate that its own key has issued."""
    key, name = Ed25519PrivateKey.generate(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "netfs")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    return write_chain(path, key, builder.not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC)).sign(key, None))


async def test_a_client_without_a_certificate() -> None:
    near, far = socket.socketpair()
    theirs, ours = await attempt(client_side(near, context=stranger(ssl.PROTOCOL_TLS_CLIENT)), server_side(far))
    assert isinstance(ours, NotTrusted) and "its certificate is none of ours" in str(ours)
    assert isinstance(theirs, NotTrusted) and "it refused the certificate of this side" in str(theirs)


async def test_certificates_of_another_issuer(tmp_path: Path) -> None:
    chain = self_signed(tmp_path / "chain")
    near, far = socket.socketpair()
    theirs, ours = await attempt(client_side(near, context=stranger(ssl.PROTOCOL_TLS_CLIENT, chain)), server_side(far))
    assert isinstance(ours, NotTrusted) and isinstance(theirs, NotTrusted)
    near, far = socket.socketpair()
    ours, theirs = await attempt(client_side(near), server_side(far, context=stranger(ssl.PROTOCOL_TLS_SERVER, chain)))
    assert isinstance(ours, NotTrusted) and "its certificate is none of ours" in str(ours)


async def test_tls_for_something_else(tmp_path: Path) -> None:
    path = identity(tmp_path, "id").path
    near, far = socket.socketpair()
    _, ours = await attempt(client_side(near, context=stranger(ssl.PROTOCOL_TLS_CLIENT, path, "http/1.1")), server_side(far))
    assert isinstance(ours, HelloMismatch) and "something else" in str(ours)
    near, far = socket.socketpair()
    ours, _ = await attempt(client_side(near), server_side(far, context=stranger(ssl.PROTOCOL_TLS_SERVER, path, "http/1.1")))
    assert isinstance(ours, HelloMismatch) and "something else" in str(ours)


async def test_tls_1_2_is_refused_by_both_sides(tmp_path: Path) -> None:
    path = identity(tmp_path, "id").path
    old_client, old_server = (stranger(kind, path) for kind in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER))
    old_client.maximum_version = old_server.maximum_version = ssl.TLSVersion.TLSv1_2
    near, far = socket.socketpair()
    theirs, ours = await attempt(client_side(near, context=old_client), server_side(far))
    assert isinstance(ours, HelloMismatch) and "it cannot speak TLS 1.3" in str(ours)
    assert isinstance(theirs, TransportError)
    near, far = socket.socketpair()
    ours, theirs = await attempt(client_side(near), server_side(far, context=old_server))
    assert isinstance(ours, HelloMismatch) and "it cannot speak TLS 1.3" in str(ours)
    assert isinstance(theirs, TransportError)


async def test_dates_do_not_count(tmp_path: Path) -> None:
    """What is pinned is the key: a line that is removed ends it, a date does not."""
    key = Ed25519PrivateKey.generate()
    for years in ((2001, 2002), (2801, 2802)):
        expired = issue(key.public_key(), *(dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in years))
        path = write_chain(tmp_path / "chain", key, expired)
        near, far = socket.socketpair()
        client = client_side(near, context=stranger(ssl.PROTOCOL_TLS_CLIENT, path))
        server = server_side(far)
        await shaken(client, server)
        assert server.fingerprint == peer_fingerprint(expired.public_bytes(Encoding.DER))
        client.close()
        server.close()


async def test_a_certificate_without_its_key_opens_nothing(tmp_path: Path) -> None:
    """Certificates are public, and anybody may issue one for any key; the handshake asks for the key itself."""
    victim, mine = identity(tmp_path, "victim"), Ed25519PrivateKey.generate()
    stolen = x509.load_pem_x509_certificate(victim.path.read_bytes())
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        stranger(ssl.PROTOCOL_TLS_CLIENT, write_chain(tmp_path / "mixed", mine, stolen))


async def test_clear_text_to_a_tls_server() -> None:
    for words in (b"NETFSIO1" + bytes(40), b"GET / HTTP/1.1\r\n\r\n", b"\0"):
        near, far = socket.socketpair()
        near.sendall(words)
        server = server_side(far)
        with pytest.raises(HelloMismatch, match="it began in the clear"):
            await server.handshake(ENV)
        assert near.recv(100)[0] == 0x15, "an alert, which a plain client of ours recognises"
        assert near.recv(100) == b""
        near.close()


async def test_silence_ends_the_handshake(autojump_clock: trio.testing.MockClock) -> None:
    for side in (client_side, server_side):
        near, far = socket.socketpair()
        with far, pytest.raises(HelloMismatch, match="no TLS handshake in 7 s"):
            await side(near).handshake(ENV, 7)


async def test_a_cancelled_handshake_closes_the_stream() -> None:
    near, far = socket.socketpair()
    client = client_side(near)
    with trio.move_on_after(0) as scope:
        await client.handshake(ENV)
    assert scope.cancelled_caught
    far.setblocking(True)
    while far.recv(1000):
        pass
    far.close()
