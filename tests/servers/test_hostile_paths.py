"""A folder whose names somebody else swaps all the time: no answer and no descriptor ever comes from outside of it.

Another process, which has the folder too, replaces directories by symlinks that lead out, and back, while clients walk, open,
create, rename and remove through the same names. What is outside is marked, so that one byte or name of it would be seen.
"""

import errno
import multiprocessing
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from iov.probe import Probe
from servers.stores.base import Store
from servers.stores.directory import DirectoryStore
from tests.conformance.store_words import MEMORY, taken
from transport.messages import FileType, Setattr, XattrMode

SECRET = b"SECRET"
SECONDS = 2.0
EXPECTED = frozenset({errno.EXDEV,
    errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EINVAL,
    errno.EAGAIN, errno.EOPNOTSUPP, errno.EPERM, errno.ENODATA,
})  # fmt: skip


def swap_names(home: str, outside: str, stop: Event) -> None:
    """Replace the directory `a/b`, the directory `a` and the file `a/b/f` by symlinks that lead out, and back."""
    rng = random.Random(1)
    os.chdir(home)
    number = 0
    while not stop.is_set():
        number += 1
        name, target = rng.choice([("a/b", outside), ("a", outside), ("a/b/f", f"{outside}/f"), ("a/b", "../.."), ("a", "/")])
        place, kept = Path(name), Path(f"kept{number}")
        try:
            place.rename(kept)
            place.symlink_to(target)
            time.sleep(rng.random() * 0.002)
            if rng.random() < 0.5:
                place.rename(f"gone{number}")
            else:
                place.unlink()
            kept.rename(place)
        except OSError:
            for path in (Path("a"), Path("a/b")):
                if path.is_symlink():
                    path.unlink()
            with suppress(OSError):
                Path("a/b").mkdir(parents=True)
        with suppress(OSError), Path("a/b/f").open("xb") as file:
            file.write(b"inside")


@pytest.fixture
def homes() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as name:
        home, outside = Path(name, "home"), Path(name, "outside")
        for folder in (home / "a" / "b", outside / "b"):
            folder.mkdir(parents=True)
        for place in (outside, outside / "b"):
            (place / "f").write_bytes(SECRET)
            (place / SECRET.decode()).touch()
        yield home, outside


def ends(folder: Path) -> list[object]:
    return [(str(path), path.lstat().st_mode, path.is_file() and path.read_bytes()) for path in sorted(folder.rglob("*"))]


def attack(store: Store, rng: random.Random, wrong: list[object]) -> None:
    """Do one thing through the names that are swapped."""
    root = store.root().handle
    a = store.lookup(root, "a").handle
    b = store.lookup(a, "b").handle
    match rng.randrange(10):
        case 0:
            file = store.lookup(b, "f").handle
            if taken(store.read_source(file, 0, 100)).startswith(SECRET):
                wrong.append("read what is outside")
        case 1:
            found = [entry.name for entry in store.readdir(rng.choice([a, b]), 0, 100)[0]]
            if SECRET.decode() in found:
                wrong.append(f"listed what is outside: {found}")
        case 2:
            made = store.create(b, f"made{rng.randrange(9)}", 0o600, exclusive=False).handle
            store.truncate(made, 3)
        case 3:
            store.unlink(b, "f")
        case 4:
            store.rename(b, "f", a, f"moved{rng.randrange(9)}")
        case 5:
            store.mkdir(b, f"dir{rng.randrange(9)}", 0o700)
        case 6:
            store.setattr(Setattr(store.lookup(b, "f").handle, mode=0o611, size=2))
        case 7:
            store.symlink(b, f"link{rng.randrange(9)}", b"/etc/passwd")
        case 8:
            entry = store.lookup(a, "b")
            if entry.attr.type is FileType.SYMLINK:
                store.readlink(entry.handle)
            store.lookup(entry.handle, SECRET.decode())
            wrong.append("found a name that is outside")
        case _:
            store.xattr_set(b, "user.mark", b"x", XattrMode.EITHER)
            store.link(store.lookup(b, "f").handle, a, f"hard{rng.randrange(99)}")


def outside_descriptors(outside: Path) -> list[str]:
    """Return the open descriptors of this process that lead to what is outside."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(link.readlink())
            if target.startswith(str(outside)):
                found.append(target)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("openat2", [True, False], ids=["with openat2", "without"])
def test_no_race_leads_outside(homes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, openat2: bool) -> None:
    home, outside = homes
    if not openat2:
        monkeypatch.setattr("servers.stores.syscalls._has_openat2", lambda: False)
    before = ends(outside)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    swapper = context.Process(target=swap_names, args=(str(home), str(outside), stop))
    store = DirectoryStore(home, Probe())
    wrong: list[object] = []
    done = [0, 0]
    swapper.start()
    try:
        deadline = time.monotonic() + SECONDS

        def work(number: int) -> None:
            rng = random.Random(number)
            while time.monotonic() < deadline and not wrong:
                try:
                    attack(store, rng, wrong)
                    done[0] += 1
                except OSError as error:
                    done[1] += 1
                    if error.errno not in EXPECTED:
                        wrong.append(error)
                if done[1] % 50 == 0:
                    wrong.extend(outside_descriptors(outside))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        swapper.join(20)
        store.close()
    assert not wrong
    assert ends(outside) == before
    assert min(done) > 20, "some of it has to work, and some to fail, or nothing was tried"
    shutil.rmtree(home)
