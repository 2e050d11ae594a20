"""Identities: made, kept, refused; and the two files of fingerprints on disk."""

import errno
import os
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.transport.secure import identity
from transport.security import (
    AuthorizedKeys,
    KnownHosts,
    client_context,
    issue,
    load_identity,
    peer_fingerprint,
    server_context,
    write_identity,
)
from transport.trust import fingerprint_of

ONE = fingerprint_of(b"one")


def test_an_identity_is_the_owners_and_comes_back(tmp_path: Path) -> None:
    made = write_identity(tmp_path / "id", bytes(32))
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert load_identity(tmp_path / "id") == made
    assert write_identity(tmp_path / "same", bytes(32)).fingerprint == made.fingerprint
    assert (tmp_path / "same").read_bytes() == made.path.read_bytes(), "the certificate is a function of the key"
    assert write_identity(tmp_path / "other", bytes(31) + b"x").fingerprint != made.fingerprint


def test_an_identity_is_never_replaced(tmp_path: Path) -> None:
    made = identity(tmp_path, "id")
    before = made.path.read_bytes()
    with pytest.raises(FileExistsError):
        identity(tmp_path, "id")
    assert made.path.read_bytes() == before


def test_the_fingerprint_is_what_openssl_says(tmp_path: Path) -> None:
    made = identity(tmp_path, "id")
    command = ["openssl", "pkey", "-in", str(made.path), "-pubout", "-outform", "DER"]
    try:
        spki = subprocess.run(command, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("there is no openssl here that knows Ed25519")
    assert fingerprint_of(spki.stdout) == made.fingerprint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_an_identity_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    made = identity(tmp_path, "id")
    made.path.chmod(mode)
    with pytest.raises(PermissionError, match="chmod 600"):
        load_identity(made.path)


def pem(key: Ed25519PrivateKey, secret: bytes | None = None) -> bytes:
    sealed = NoEncryption() if secret is None else BestAvailableEncryption(secret)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)


def test_what_is_no_identity(tmp_path: Path) -> None:
    one, two = Ed25519PrivateKey.from_private_bytes(bytes(32)), Ed25519PrivateKey.from_private_bytes(b"x" * 32)
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = issue(one.public_key()).public_bytes(Encoding.PEM)
    for name, content in {
        "empty": b"",
        "noise": os.urandom(500),
        "no certificate": pem(one),
        "no key": certificate,
        "another's certificate": pem(two) + certificate,
        "an encrypted key": pem(one, b"secret") + certificate,
        "another kind of key": other + certificate,
        "too long": pem(one) + certificate + bytes(1 << 20),
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(OSError) as caught:
            load_identity(path)
        assert caught.value.errno in {errno.EINVAL, errno.EFBIG}, name
        assert caught.value.filename == str(path)
        assert b"PRIVATE" not in str(caught.value).encode()


def test_contexts_speak_tls_1_3_alone_and_ask_for_certificates(tmp_path: Path) -> None:
    made = identity(tmp_path, "id")
    for context in (client_context(made), server_context(made)):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert server_context(made).num_tickets == 0


def test_certificates_without_a_key_of_ours() -> None:
    for content in (None, b"", b"\x30\x03\x02\x01\x01"):
        with pytest.raises(ValueError):
            peer_fingerprint(content)


def test_known_hosts_on_disk(tmp_path: Path) -> None:
    hosts = KnownHosts(tmp_path / "deep" / "known_hosts")
    assert hosts.fingerprints("h:1") == []
    hosts.remember("H:1", ONE)
    assert hosts.fingerprints("h:1") == [ONE]
    assert stat.S_IMODE(hosts.path.stat().st_mode) == 0o600
    with hosts.path.open("a") as file:
        file.write("# a comment without an end")
    hosts.remember("h:2", ONE)
    assert hosts.fingerprints("h:2") == [ONE]
    hosts.path.write_text("nonsense\n")
    with pytest.raises(OSError, match="line 1") as caught:
        hosts.fingerprints("h:1")
    assert caught.value.filename == str(hosts.path)


def test_authorized_keys_are_read_each_time(tmp_path: Path) -> None:
    keys = AuthorizedKeys(tmp_path / "keys")
    with pytest.raises(FileNotFoundError):
        keys.grant(ONE)
    keys.path.write_text(f"{ONE} alice ro\n")
    grant = keys.grant(ONE)
    assert grant is not None and (grant.name, grant.read_only) == ("alice", True)
    keys.path.write_text("")
    assert keys.grant(ONE) is None
    keys.path.write_bytes(b"\xff\xfe")
    with pytest.raises(OSError) as caught:
        keys.grant(ONE)
    assert caught.value.filename == str(keys.path)
