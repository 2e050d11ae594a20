"""Arguments as places, and names as text that a terminal may be shown."""

import pytest

from netfs.cli.place import Place, parse_place, printable


@pytest.mark.parametrize(
    ("text", "endpoint", "path", "folder"),
    [
        ("a", None, "a", False),
        ("/", None, "/", True),
        ("a/b/", None, "a/b", True),
        ("a/../b", None, "a/../b", False),
        ("./x://y", None, "./x://y", False),
        ("netfs://host", "netfs://host", "/", False),
        ("netfs+tcp://host:7/a", "netfs+tcp://host:7", "/a", False),
        ("netfs://host:7777/", "netfs://host:7777", "/", True),
        ("netfs://[::1]:7777/a/b", "netfs://[::1]:7777", "/a/b", False),
        ("netfs://host//a/./b/../c/", "netfs://host", "/a/c", True),
        ("netfs://host/../../etc", "netfs://host", "/etc", False),
        ("netfs+unix:///run/s.sock", "netfs+unix:///run/s.sock", "/", False),
        ("netfs+unix:///run/s.sock:/", "netfs+unix:///run/s.sock", "/", True),
        ("netfs+unix:///run/s.sock:/a/b", "netfs+unix:///run/s.sock", "/a/b", False),
        ("netfs+unix:///run/s.sock:/a/", "netfs+unix:///run/s.sock", "/a", True),
    ],
)
def test_parse(text: str, endpoint: str | None, path: str, folder: bool) -> None:
    assert parse_place(text) == Place(endpoint, path, folder)


@pytest.mark.parametrize("text", ["", "http://host/x", "netfs://", "netfs:///x", "netfs+unix://run/s.sock:/x"])
def test_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_place(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["netfs://h:1/a/b", "netfs+unix:///s:/a", "/a/b", "a"])
def test_written_back(text: str) -> None:
    assert str(parse_place(text)) == text
    assert parse_place(str(parse_place(text).child("c"))).name == "c"


def test_nothing_from_a_server_drives_the_terminal() -> None:
    assert printable("größe 文.txt") == "größe 文.txt"
    assert printable("a\x1b[2Jb\nc\udcff") == "a\\x1b[2Jb\\nc\\udcff"
    assert printable("\u202eexe.txt").isprintable()
