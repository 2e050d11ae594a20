"""Nodes: numbers, places and lookups, against a model that keeps a tree of names."""

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netfs.fuse.nodes import OTHERS, ROOT, Node, Nodes
from transport.messages import Attr, FileType


def test_a_path_follows_a_renamed_directory() -> None:
    nodes = Nodes()
    folder = nodes.found(nodes.root, "a", 10)
    file = nodes.found(folder, "f", 11)
    assert file.path() == "/a/f"
    nodes.moved(nodes.root, "a", nodes.root, "b")
    assert file.path() == "/b/f"
    assert folder.child_path("g") == "/b/g"


def test_an_object_with_two_names_is_one_node() -> None:
    nodes = Nodes()
    one, other = nodes.found(nodes.root, "a", 10), nodes.found(nodes.root, "b", 10)
    assert one is other and one.lookups == 2
    nodes.gone(nodes.root, "b")
    assert one.path() == "/a"


def test_another_object_under_a_name_is_another_node() -> None:
    nodes = Nodes()
    old = nodes.found(nodes.root, "a", 10)
    new = nodes.found(nodes.root, "a", 11)
    assert new is not old
    with pytest.raises(OSError) as stale:
        old.path()
    assert stale.value.errno == errno.ESTALE


def test_a_number_that_is_used_again_is_not_the_old_file() -> None:
    nodes = Nodes()
    old = nodes.found(nodes.root, "a", 10)
    nodes.gone(nodes.root, "a")
    new = nodes.found(nodes.root, "b", 10)
    assert new.number >= OTHERS and old.number == 10
    assert nodes.found(nodes.root, "b", 10) is new


def test_what_somebody_else_has_put_in_a_place_is_told_apart() -> None:
    nodes = Nodes()
    node = nodes.found(nodes.root, "a", 10)
    file = Attr(10, FileType.FILE, 0o644, 1, 0, 0, 0, 0, 0, 0, 0)
    assert not nodes.replaced(node, file)
    node.type = FileType.FILE
    assert not nodes.replaced(node, file) and node.path() == "/a"
    assert nodes.replaced(node, replace(file, ino=11))
    assert nodes.replaced(node, replace(file, type=FileType.DIRECTORY)) and node.gone
    assert nodes.found(nodes.root, "a", 10) is not node
    assert not nodes.replaced(nodes.root, file)


@pytest.mark.parametrize("ino", [0, 1, OTHERS, (1 << 64) - 1])
def test_numbers_the_kernel_must_not_see(ino: int) -> None:
    nodes = Nodes()
    assert OTHERS < nodes.found(nodes.root, "a", ino).number < 1 << 63


def test_names_that_change_places() -> None:
    nodes = Nodes()
    a, b = nodes.found(nodes.root, "a", 10), nodes.found(nodes.root, "b", 11)
    nodes.exchanged(nodes.root, "a", nodes.root, "b")
    assert (a.path(), b.path()) == ("/b", "/a")


def test_what_was_forgotten_is_unknown() -> None:
    nodes = Nodes()
    node = nodes.found(nodes.root, "a", 10)
    nodes.found(nodes.root, "a", 10)
    nodes.forget(10, 1)
    assert nodes.get(10) is node
    nodes.forget(10, 1)
    with pytest.raises(OSError):
        nodes.get(10)
    nodes.forget(10, 1)
    nodes.forget(ROOT, 100)
    assert nodes.get(ROOT) is nodes.root and len(nodes) == 1


NAMES = st.sampled_from("abc")
STEPS = st.lists(st.tuples(st.sampled_from(["find", "move", "swap", "remove", "put"]), NAMES, NAMES), max_size=40)


@given(STEPS)
def test_paths_are_those_of_a_flat_directory(steps: list[tuple[str, str, str]]) -> None:
    nodes = Nodes()
    objects: dict[str, int] = {}  # name -> number of the object that has it
    known: dict[int, Node] = {}
    fresh = iter(range(2, 1000))
    for kind, name, other in steps:
        match kind:
            case "put" if name not in objects:
                objects[name] = next(fresh)
            case "find" if name in objects:
                known[objects[name]] = nodes.found(nodes.root, name, objects[name])
            case "move" if name in objects:
                objects[other] = objects.pop(name)
                nodes.moved(nodes.root, name, nodes.root, other)
            case "swap" if name in objects and other in objects:
                objects[name], objects[other] = objects[other], objects[name]
                nodes.exchanged(nodes.root, name, nodes.root, other)
            case "remove" if name in objects:
                del objects[name]
                nodes.gone(nodes.root, name)
        for name_, number in objects.items():
            if number in known:
                assert known[number].path() == f"/{name_}"
        for number, node in known.items():
            if number not in objects.values():
                with pytest.raises(OSError):
                    node.path()
