"""How a folder maps permissions and names: masks, UTF-8, and what is there already."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iov.probe import Probe
from servers.stores.directory import DirectoryStore
from servers.stores.mapping import NamesAndModes, parse_mask
from tests.conformance.store_words import names, new, refused, top
from transport.messages import FileType, Setattr, Step, StepKind

pytestmark = pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="the directory store needs Linux")
ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[NamesAndModes], DirectoryStore]]:
    stores: list[DirectoryStore] = []

    def opening(mapping: NamesAndModes) -> DirectoryStore:
        while stores:
            stores.pop().close()
        stores.append(DirectoryStore(tmp_path, Probe(), mapping=mapping))
        return stores[0]

    yield opening
    while stores:
        stores.pop().close()


def test_a_mask_leaves_permissions_out_wherever_they_are_given(
    opened: Callable[[NamesAndModes], DirectoryStore], tmp_path: Path
) -> None:
    store = opened(NamesAndModes(0o750))
    root = top(store)
    assert store.create(root, "f", 0o6777, exclusive=True).attr.mode == 0o750
    assert store.mkdir(root, "d", 0o777).attr.mode & 0o7777 == 0o750
    file = new(store, "g")
    assert store.setattr(Setattr(file, mode=0o4766)).mode == 0o740
    step = Step(StepKind.CREATE, root, 0o777, int(FileType.FILE), name="t", record=b"r")
    made = store.apply([], 0, [step], None, 0).made
    assert made[0].attr.mode == 0o750
    assert {path.name: path.stat().st_mode & 0o7777 for path in tmp_path.iterdir() if path.name != ".netfs"} == {
        "f": 0o750, "d": 0o750, "g": 0o740, "t": 0o750,
    }  # fmt: skip


def test_new_names_are_utf8_and_old_ones_can_be_given_up(opened: Callable[[NamesAndModes], DirectoryStore]) -> None:
    store = opened(NamesAndModes())
    new(store, ODD)
    store = opened(NamesAndModes(utf8_names=True))
    root = top(store)
    file = store.lookup(root, ODD).handle
    step = Step(StepKind.CREATE, root, 0o600, int(FileType.FILE), name=ODD + "t", record=b"r")
    calls: list[Callable[[], object]] = [
        lambda: store.create(root, ODD + "1", 0o600, exclusive=True),
        lambda: store.mkdir(root, ODD + "2", 0o700),
        lambda: store.symlink(root, ODD + "3", b"target"),
        lambda: store.link(file, root, ODD + "4"),
        lambda: store.rename(root, ODD, root, ODD + "5"),
        lambda: store.apply([], 0, [step], None, 0),
    ]
    for call in calls:
        with refused(errno.EILSEQ):
            call()
    assert names(store, root) == [ODD]
    store.rename(root, ODD, root, "café")
    store.create(root, "日本", 0o600, exclusive=True)
    assert sorted(names(store, root)) == ["café", "日本"]


@pytest.mark.parametrize(("text", "mask"), [("0750", 0o750), ("750", 0o750), ("0o7777", 0o7777), ("0", 0)])
def test_masks(text: str, mask: int) -> None:
    assert parse_mask(text) == mask


@pytest.mark.parametrize("text", ["", "0788", "rwx", "077777", "-1"])
def test_what_is_no_mask_is_one_clear_line(text: str) -> None:
    with pytest.raises(ValueError, match="octal"):
        parse_mask(text)
