"""pandas, pyarrow, zarr and dask over netfs, as people use them: by URL, with nothing set up."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from crypto.keys import format_key_file
from crypto.slots import RawKey
from crypto.volume import new_volume
from netfs.fs.client import open_client
from netfs.fs.volumes import create_header
from netfs.fsspec.portal import portal
from tests.netfs.test_cli_keys import User
from tests.netfs.test_cli_session import serving
from tests.test_readme import blocks

pytestmark = pytest.mark.slow


def test_pandas_and_dask_share_a_table(url: str) -> None:
    pd: Any = pytest.importorskip("pandas", reason="not installed: pip install --group e2e")
    pytest.importorskip("pyarrow", reason="not installed: pip install --group e2e")
    dd: Any = pytest.importorskip("dask.dataframe", reason="not installed: pip install --group e2e")
    table = pd.DataFrame({"n": range(10_000), "word": [f"w{number % 7}" for number in range(10_000)]})
    table.to_parquet(f"{url}/new/folder/table.parquet")
    table.to_csv(f"{url}/table.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(f"{url}/new/folder/table.parquet"), table)
    assert pd.read_csv(f"{url}/table.csv")["n"].sum() == table["n"].sum()
    assert dd.read_parquet(f"{url}/new/folder/*.parquet")["n"].sum().compute(scheduler="threads") == table["n"].sum()


def test_the_example_of_the_readme(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd: Any = pytest.importorskip("pandas", reason="not installed: pip install --group e2e")

    async def made() -> None:
        async with open_client(url) as client:
            await client.mkdir("/vault")
            await create_header(client, "/vault", new_volume(RawKey(b"k" * 32), os.urandom))

    trio.run(made)
    (tmp_path / "my.key").write_bytes(format_key_file(b"k" * 32))
    monkeypatch.chdir(tmp_path)
    example = blocks("python")[1].replace("netfs+tcp://127.0.0.1:7777", url)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    secret = {"volume": "/vault", "key_file": "my.key"}
    assert pd.read_csv(f"{url}/vault/words.csv", index_col=0, storage_options=secret).equals(names["words"])
    assert pd.read_csv(f"{url}/tables/words.csv", index_col=0).equals(names["words"])


def test_a_dataset_of_pyarrow(url: str) -> None:
    pa: Any = pytest.importorskip("pyarrow", reason="not installed: pip install --group e2e")
    import fsspec

    dataset: Any = pytest.importorskip("pyarrow.dataset")
    pafs: Any = pytest.importorskip("pyarrow.fs")
    fs, _ = fsspec.url_to_fs(url)
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    table = pa.table({"n": list(range(1000)), "part": [number % 4 for number in range(1000)]})
    dataset.write_dataset(table, "/parts", format="parquet", partitioning=["part"], filesystem=arrow)
    assert dataset.dataset("/parts", filesystem=arrow, partitioning=["part"]).count_rows() == 1000


def test_an_array_of_zarr(url: str) -> None:
    zarr: Any = pytest.importorskip("zarr", reason="not installed: pip install --group e2e")
    array = zarr.open(f"{url}/array.zarr", mode="w", shape=(100, 100), chunks=(10, 10), dtype="i4")
    array[:] = 7
    array[3, 4] = 1
    again = zarr.open(f"{url}/array.zarr", mode="r")
    assert int(again[:].sum()) == 7 * 9999 + 1


def test_a_cache_of_fsspec_notices_a_new_version(url: str, tmp_path: Path) -> None:
    import fsspec

    options = {"filecache": {"cache_storage": str(tmp_path), "check_files": True}}
    fs, _ = fsspec.url_to_fs(url)
    fs.pipe_file("/cached", b"one")
    for content in (b"one", b"two!"):
        fs.pipe_file("/cached", content)
        with fsspec.open(f"filecache::{url}/cached", "rb", **options) as file:
            assert file.read() == content


def test_the_keys_of_the_command_open_a_vault_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what keygen, trust and volume init have left in a home; and named one by one, from another home."""
    import fsspec

    alice, bob = User(tmp_path / "alice"), User(tmp_path / "bob")
    alice.run("keygen", "--identity")
    keys = alice.files / "authorized_keys"
    keys.write_text(bob.run("keygen", "--identity"))
    with alice.serving("--memory", "--authorized-keys", keys) as served:
        url = served["url"].removesuffix("/")
        assert url.startswith("netfs://")
        bob.run("trust", url)
        bob.run("keygen", "my.key")
        bob.run("volume", "init", "--key-file", "my.key", f"{url}/vault")
        monkeypatch.setenv("HOME", str(bob.home))
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            monkeypatch.delenv(name, raising=False)
        secret: dict[str, Any] = {"volume": "/vault", "key_file": "~/my.key", "skip_instance_cache": True}
        with fsspec.open(f"{url}/vault/note", "w", **secret) as file:
            file.write("for bob alone")
        assert bob.run("cat", "--key-file", "my.key", f"{url}/vault/note") == "for bob alone"
        monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
        named = {"identity": str(bob.files / "identity"), "known_hosts": str(bob.files / "known_hosts")}
        with fsspec.open(f"{url}/vault/note", **secret | {"key_file": str(bob.home / "my.key")} | named) as file:
            assert file.read() == b"for bob alone"
        with pytest.raises(OSError, match=r"identity|TLS"):
            fsspec.open(f"{url}/vault/note", **secret | {"key_file": str(bob.home / "my.key")}).open()
        portal().close()


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # between dask and pandas
def test_over_rdma_and_in_other_processes() -> None:
    """Dask sends the filesystem to processes of its own, which connect for themselves."""
    pd: Any = pytest.importorskip("pandas", reason="not installed: pip install --group e2e")
    pytest.importorskip("pyarrow", reason="not installed: pip install --group e2e")
    dd: Any = pytest.importorskip("dask.dataframe", reason="not installed: pip install --group e2e")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with serving("--memory", "--listen", "127.0.0.1:0", "--rdma", address):
        url = f"netfs+rdma://{address}"
        for number in range(3):
            pd.DataFrame({"n": range(number * 1000, number * 1000 + 1000)}).to_parquet(f"{url}/parts/{number}.parquet")
        table = dd.read_parquet(f"{url}/parts/*.parquet")
        assert table["n"].sum().compute(scheduler="processes", num_workers=2) == sum(range(3000))
        table.to_parquet(f"{url}/copy", compute_kwargs={"scheduler": "threads"})
        assert pd.read_parquet(f"{url}/copy")["n"].sum() == sum(range(3000))
        portal().close()
