"""An authority that vouches for servers and clients, and what it does not vouch for."""

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

import netfs
from iov.probe import Probe
from servers import MemoryStore, Serving, serve

CA = trustme.CA()
OTHER = trustme.CA()
LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)


def chain(folder: Path, file: str, ca: trustme.CA, *names: str, ends: dt.datetime | None = None) -> Path:
    """Issue a certificate; a client's name is its common name."""
    certificate = ca.issue_cert(*names, common_name=names[0], not_after=ends)
    path = folder / file
    path.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
    path.chmod(0o600)
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    OTHER.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    return tmp_path / "ca.pem"


@asynccontextmanager
async def served(folder: Path, identity: Path, ca: Path, keys: Path | None = None) -> AsyncIterator[Serving]:
    store = MemoryStore(Probe())
    async with serve(store, identity=identity, authority=ca, authorized_keys=keys) as serving:
        yield serving
    store.close()


async def test_who_has_a_certificate_comes_in_by_its_name(
    tmp_path: Path, authority: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    mine = chain(tmp_path, "mine.pem", CA, "bob@example.org")
    async with served(tmp_path, chain(tmp_path, "s.pem", CA, "127.0.0.1"), authority) as serving:
        async with netfs.open_client(serving.url, identity=mine, ca=authority) as fs:
            await fs.mkdir("/a")
            assert [one.grant.name for one in serving.server.clients if one.grant] == ["bob@example.org"]
    assert "name=bob@example.org" in caplog.text


@pytest.mark.parametrize("case", ["another authority", "expired", "expired server", "another host", "another authority's server"])
async def test_for_whom_nobody_vouches(case: str, tmp_path: Path, authority: Path) -> None:
    server = {
        "expired server": lambda: chain(tmp_path, "s.pem", CA, "127.0.0.1", ends=LONG_AGO),
        "another host": lambda: chain(tmp_path, "s.pem", CA, "example.org"),
        "another authority's server": lambda: chain(tmp_path, "s.pem", OTHER, "127.0.0.1"),
    }.get(case, lambda: chain(tmp_path, "s.pem", CA, "127.0.0.1"))()
    mine = {
        "another authority": lambda: chain(tmp_path, "c.pem", OTHER, "bob@example.org"),
        "expired": lambda: chain(tmp_path, "c.pem", CA, "bob@example.org", ends=LONG_AGO),
    }.get(case, lambda: chain(tmp_path, "c.pem", CA, "bob@example.org"))()
    async with served(tmp_path, server, authority) as serving:
        with pytest.raises(netfs.NotReachable):
            async with netfs.open_client(serving.url, identity=mine, ca=authority) as fs:
                await fs.mkdir("/never")


async def test_an_identity_of_ours_is_no_certificate_of_theirs(tmp_path: Path, authority: Path) -> None:
    from tests.transport.secure import identity

    ours = identity(tmp_path, "ours")
    async with served(tmp_path, chain(tmp_path, "s.pem", CA, "127.0.0.1"), authority) as serving:
        with pytest.raises(netfs.NotReachable):
            async with netfs.open_client(serving.url, identity=ours.path, ca=authority) as fs:
                await fs.mkdir("/never")


async def test_files_that_are_something_else(tmp_path: Path, authority: Path) -> None:
    (tmp_path / "nonsense").write_text("nonsense")
    (tmp_path / "nonsense").chmod(0o600)
    good = chain(tmp_path, "s.pem", CA, "127.0.0.1")
    for identity, ca in ((tmp_path / "nonsense", authority), (good, tmp_path / "nonsense"), (tmp_path / "gone", authority)):
        with pytest.raises(OSError) as caught:
            async with served(tmp_path, identity, ca):
                raise AssertionError
        assert caught.value.filename in {str(identity), str(ca)}
    good.chmod(0o644)
    with pytest.raises(OSError, match="others may read it"):
        async with served(tmp_path, good, authority):
            raise AssertionError
