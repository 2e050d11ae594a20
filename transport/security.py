"""Trio shell. Identities and the files that say who is trusted; TLS contexts of both sides.

An identity is an Ed25519 key and the certificate that carries it through TLS, in one PEM file that only its owner may read.
A certificate here vouches for nothing: Python's ssl can ask for a client's certificate only if it verifies it as well, so all of
them are issued by one key that everybody knows (ISSUER), and are the same for the same key. What counts is the fingerprint of the
peer's key, compared after the handshake, which has proved that the peer holds the key: `peer_fingerprint`, and then known_hosts
or authorized_keys. Hence neither names nor dates of certificates are looked at; a key ends by its line being removed.

Follows RFC 8446 (4.4.2.4, 4.6.1), RFC 7301, RFC 5280 4.1.2.5. Owns no payload memory.
"""

import datetime as dt
import errno
import hashlib
import os
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from transport.trust import Fingerprint, Grant, fingerprint_of, known_host_line, parse_authorized_keys, parse_known_hosts

__all__ = [
    "ALPN",
    "SEED_SIZE",
    "AuthorizedKeys",
    "Identity",
    "KnownHosts",
    "client_context",
    "load_identity",
    "peer_fingerprint",
    "server_context",
    "write_identity",
]

ALPN: Final = "netfs/1"
SEED_SIZE: Final = 32
SECRET_MODE: Final = 0o600
MAX_FILE: Final = 1 << 20
ISSUER: Final = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"netfs: the issuer that vouches for nothing").digest())
"""No secret: anybody may issue certificates with it, and they open nothing."""
NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME, which ssl does not name."""
_ISSUER_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "netfs: vouches for nothing")])
_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "netfs")])
_FROM: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_TO: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Identity:
    """A key that is kept in a file, which `ssl` reads by itself."""

    path: Path
    fingerprint: Fingerprint


def write_identity(path: str | os.PathLike[str], seed: bytes, more: bytes = b"") -> Identity:
    """Make an identity from 32 fresh random bytes and write it to a new file that only its owner may read.

    more: what else the file is to hold, behind what is read here.

    Raises: OSError, FileExistsError for a file that is there: an identity is never replaced.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem += issue(key.public_key()).public_bytes(Encoding.PEM)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, SECRET_MODE)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(pem + more)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        with suppress(OSError):
            Path(path).unlink()
        raise
    return Identity(Path(path), _fingerprint(key.public_key()))


def load_identity(path: str | os.PathLike[str]) -> Identity:
    """Check an identity's file; what else it holds is not looked at.

    Raises: OSError with the path; EPERM when others may read it, EINVAL when it is no identity.
    """
    text = _read(path, secret=True)
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(text, None)
        if isinstance(key, Ed25519PrivateKey) and x509.load_pem_x509_certificate(text) == issue(key.public_key()):
            return Identity(Path(path), _fingerprint(key.public_key()))
    raise OSError(errno.EINVAL, "not an identity as netfs keygen --identity makes one", os.fspath(path))


def issue(key: Ed25519PublicKey, start: dt.datetime = _FROM, end: dt.datetime = _TO) -> x509.Certificate:
    """Return the certificate of a key, always the same one."""
    return _certificate(_NAME, key, start, end, issuer=False)


def _certificate(
    name: x509.Name, key: Ed25519PublicKey, start: dt.datetime, end: dt.datetime, *, issuer: bool
) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(_ISSUER_NAME).public_key(key).serial_number(1)
    builder = builder.not_valid_before(start).not_valid_after(end)
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(ISSUER.public_key())
    return builder.add_extension(above, critical=False).sign(ISSUER, None)


# ---- TLS


def client_context(identity: Identity) -> ssl.SSLContext:
    """Return the client's side of TLS 1.3."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity)


def server_context(identity: Identity) -> ssl.SSLContext:
    """Return the server's side of TLS 1.3; no session is resumed, so that a key that is removed stays outside."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity)
    context.num_tickets = 0
    return context


def _tls13(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Python 3.11 up to a patch release has it on: a connection that somebody cuts would pass for one that was closed.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


def _context(protocol: int, identity: Identity) -> ssl.SSLContext:
    context = _tls13(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= NO_CHECK_TIME
    anchor = _certificate(_ISSUER_NAME, ISSUER.public_key(), _FROM, _TO, issuer=True)
    context.load_verify_locations(cadata=anchor.public_bytes(Encoding.DER))
    context.load_cert_chain(identity.path)
    context.set_alpn_protocols([ALPN])
    return context


def authority_context(
    chain: str | os.PathLike[str], authority: str | os.PathLike[str], *, server_side: bool
) -> ssl.SSLContext:  # fmt: skip
    """Return a side of TLS 1.3 in which an authority vouches for the other: names and dates of certificates count.

    chain: a PEM file with the private key and the certificates of this side; authority: one with those of the authority.
    Raises: OSError with the path, EINVAL for a file that holds something else.
    """
    context = _tls13(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = not server_side
    context.verify_mode = ssl.CERT_REQUIRED
    _read(chain, secret=True)
    path = authority
    try:
        context.load_verify_locations(authority)
        path = chain
        context.load_cert_chain(chain)
    except ssl.SSLError:
        raise OSError(errno.EINVAL, "not certificates in PEM, or not a key that fits them", os.fspath(path)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    if server_side:
        context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    return context


def certified_name(certificate: bytes) -> str:
    """Return the common name in a certificate, "" where there is none; characters that are no name's are left out."""
    subject = x509.load_der_x509_certificate(certificate).subject
    named = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return "".join(char for char in str(named[0].value) if char.isalnum() or char in "._@+-") if named else ""


def peer_fingerprint(certificate: bytes | None, *, any_key: bool = False) -> Fingerprint:
    """Return the fingerprint of a peer's key, from its certificate in DER. Raises: ValueError for one that we cannot pin."""
    try:
        key = x509.load_der_x509_certificate(certificate or b"").public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, Ed25519PublicKey) and not any_key:
        raise ValueError("not an Ed25519 key")
    return fingerprint_of(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _fingerprint(key: Ed25519PublicKey) -> Fingerprint:
    return fingerprint_of(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


# ---- who is trusted


class KnownHosts:
    """The keys of servers. A file that is not there knows nobody."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def fingerprints(self, peer: str) -> list[Fingerprint]:
        """Return the keys of `host:port`, none for a stranger. Raises: OSError with the path."""
        try:
            text = _read(self.path)
        except FileNotFoundError:
            return []
        try:
            return parse_known_hosts(text.decode()).get(peer.lower(), [])
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), str(self.path)) from None

    def remember(self, peer: str, fingerprint: Fingerprint) -> None:
        """Add a server's key. Raises: OSError with the path."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, SECRET_MODE)
        try:
            size = os.fstat(fd).st_size
            unfinished = size and os.pread(fd, 1, size - 1) != b"\n"
            os.write(fd, ("\n" * bool(unfinished) + known_host_line(peer, fingerprint)).encode())
        finally:
            os.close(fd)


class AuthorizedKeys:
    """The keys that a server lets in. The file is read for each client, so a line counts from the next connection on."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def grant(self, fingerprint: Fingerprint) -> Grant | None:
        """Return what a key may do, None for nothing at all. Raises: OSError with the path, also for a bad line."""
        return self.grants().get(fingerprint)

    def grants(self) -> dict[Fingerprint, Grant]:
        """Return all keys. Raises: OSError with the path."""
        try:
            return parse_authorized_keys(_read(self.path).decode())
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error), str(self.path)) from None


def _read(path: str | os.PathLike[str], *, secret: bool = False) -> bytes:
    with Path(path).open("rb") as stream:
        if secret and stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
            raise OSError(errno.EPERM, "others may read it; say chmod 600", os.fspath(path))
        text = stream.read(MAX_FILE + 1)
    if len(text) > MAX_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), os.fspath(path))
    return text
