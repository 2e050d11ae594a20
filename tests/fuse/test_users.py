"""Several users at one mount (`--allow-other`): who may what, whose is what is made, and what a change by others takes away.

The expectations are those that pjdfstest checks as an unprivileged user. The kernel decides by what the mount says of owners
and modes, so that the mount, its server and an encrypted volume's records have to keep those. A process of the user makes the
calls.
"""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.mounted import Mounted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.getuid() != 0, reason="only root may be other users"),
    pytest.mark.parametrize("mounted", ["plain-shared", "encrypted-shared", "plain-shared-writeback"], indirect=True),
]
NOBODY, GROUP, STRANGER = 65534, 65534, 65533
AS_USER = """
import errno, json, os, sys, time
from pathlib import Path
user, group, top = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
os.umask(0o022)
os.setgroups([7])
os.setgid(group)
os.setuid(user)
def opened(name, flags, mode=0o666):
    os.close(os.open(top / name, flags, mode))
def written(name, flags=os.O_RDWR):
    fd = os.open(top / name, flags)
    os.write(fd, b"x")
    os.close(fd)
def kept(name):
    fd = os.open(top / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0)
    os.write(fd, b"made and used")
    os.fchmod(fd, 0o400)
    os.utime(fd, (5, 6))
    os.close(fd)
answers = []
for call in json.load(sys.stdin):
    try:
        eval(call)
        answers.append("done")
    except OSError as error:
        answers.append(errno.errorcode[error.errno])
print(json.dumps(answers))
"""
REFUSED = {
    # No search permission in a component of the path.
    "opened('shut/f', os.O_RDONLY)": "EACCES",
    "os.stat(top / 'shut/f')": "EACCES",
    "os.unlink(top / 'shut/f')": "EACCES",
    "os.mkdir(top / 'shut/new')": "EACCES",
    "os.rmdir(top / 'shut/d')": "EACCES",
    "os.rename(top / 'shut/f', top / 'free/new')": "EACCES",
    "os.rename(top / 'free/f', top / 'shut/new')": "EACCES",
    "os.symlink('x', top / 'shut/new')": "EACCES",
    "os.truncate(top / 'shut/f', 0)": "EACCES",
    "os.chmod(top / 'shut/f', 0o600)": "EACCES",
    "os.chown(top / 'shut/f', 1, 1)": "EACCES",
    "os.utime(top / 'shut/f')": "EACCES",
    "os.listdir(top / 'shut')": "EACCES",
    # No write permission in the directory.
    "opened('theirs/new', os.O_CREAT | os.O_RDWR)": "EACCES",
    "os.unlink(top / 'theirs/f')": "EACCES",
    "os.mkdir(top / 'theirs/new')": "EACCES",
    "os.rmdir(top / 'theirs/d')": "EACCES",
    "os.rename(top / 'theirs/f', top / 'theirs/new')": "EACCES",
    "os.rename(top / 'theirs/f', top / 'free/new')": "EACCES",
    "os.rename(top / 'free/f', top / 'theirs/new')": "EACCES",
    "os.symlink('x', top / 'theirs/new')": "EACCES",
    "os.mkfifo(top / 'theirs/new')": "EACCES",
    # A directory that may not be written is not moved: its parent is in it.
    "os.rename(top / 'free/d', top / 'other/d')": "EACCES",
    # The file itself.
    "opened('theirs/f', os.O_WRONLY)": "EACCES",
    "opened('theirs/f', os.O_RDWR)": "EACCES",
    "opened('theirs/f', os.O_RDONLY | os.O_TRUNC)": "EACCES",
    "opened('free/secret', os.O_RDONLY)": "EACCES",
    "os.truncate(top / 'theirs/f', 0)": "EACCES",
    "os.chmod(top / 'theirs/f', 0o777)": "EPERM",
    "os.chmod(top / 'theirs', 0o777)": "EPERM",
    "os.chown(top / 'theirs/f', 65534, -1)": "EPERM",
    "os.chown(top / 'mine/f', 0, -1)": "EPERM",
    "os.chown(top / 'mine/f', -1, 0)": "EPERM",
    "os.utime(top / 'theirs/f')": "EACCES",
    "os.utime(top / 'theirs/f', (1, 2))": "EPERM",
    "os.utime(top / 'free/for-all', (1, 2))": "EPERM",
    "os.setxattr(top / 'theirs/f', 'user.a', b'1')": "EACCES",
    "os.getxattr(top / 'free/secret', 'user.a')": "EACCES",
    # Sticky directories.
    "os.unlink(top / 'sticky/f')": "EPERM",
    "os.rmdir(top / 'sticky/d')": "EPERM",
    "os.rename(top / 'sticky/f', top / 'sticky/new')": "EPERM",
    "os.rename(top / 'sticky/f', top / 'free/new')": "EPERM",
    "os.rename(top / 'sticky/mine', top / 'sticky/f')": "EPERM",
}
DONE = [
    "os.utime(top / 'free/for-all')",
    "os.utime(top / 'mine/f', (5, 6))",
    "os.chown(top / 'mine/f', -1, 7)",
    "os.chmod(top / 'mine/f', 0o1644)",
    "opened('free/for-all', os.O_RDWR | os.O_TRUNC)",
    "os.unlink(top / 'sticky/mine')",
    "os.unlink(top / 'mine-sticky/f')",
    "os.rmdir(top / 'mine-sticky/d')",
    "os.rename(top / 'free/d', top / 'free/renamed')",
    "os.rename(top / 'mine/d', top / 'free/mine')",
    "kept('free/made')",
    "opened('free/file', os.O_CREAT | os.O_RDWR)",
    "os.mkdir(top / 'free/folder')",
    "os.mkdir(top / 'group/folder')",
    "opened('group/file', os.O_CREAT | os.O_RDWR)",
]


def asked(top: Path, calls: list[str], user: int = NOBODY, group: int = GROUP) -> list[str]:
    command = [sys.executable, "-c", AS_USER, str(user), str(group), str(top)]
    done = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, timeout=120, check=False)
    assert not done.returncode, done.stderr
    return list(json.loads(done.stdout))


def prepared(top: Path) -> Path:
    for path in (top, *top.parents[:-1]):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode & 0o7777 | 0o055)
    for name, mode, owner in (
        ("shut", 0o600, 0), ("theirs", 0o755, 0), ("free", 0o777, 0), ("other", 0o777, 0), ("mine", 0o755, NOBODY),
        ("sticky", 0o1777, 0), ("mine-sticky", 0o1755, NOBODY), ("group", 0o2777, 0),
    ):  # fmt: skip
        (top / name).mkdir()
        (top / name / "d").mkdir()
        (top / name / "f").write_bytes(b"12345")
        if name == "mine":
            os.chown(top / name / "f", owner, owner)
            os.chown(top / name / "d", owner, owner)
        os.chown(top / name, owner, 1234 if name == "group" else owner)
        (top / name).chmod(mode)
    for name, mode in (("free/secret", 0o600), ("free/for-all", 0o666), ("sticky/mine", 0o644)):
        (top / name).touch()
        (top / name).chmod(mode)
    os.chown(top / "sticky" / "mine", NOBODY, GROUP)
    return top


def test_permissions_are_those_of_the_owner_and_the_mode(mounted: Mounted) -> None:
    top = prepared(mounted.folder)
    before = [(folder, names, files) for folder, names, files in os.walk(top)]
    times = {name: (top / name).lstat().st_ctime_ns for name in ("theirs/f", "theirs/d", "shut/f")}
    answers = dict(zip(REFUSED, asked(top, list(REFUSED)), strict=True))
    assert {call: answer for call, answer in answers.items() if answer != REFUSED[call]} == {}
    assert [(folder, names, files) for folder, names, files in os.walk(top)] == before
    assert {name: (top / name).lstat().st_ctime_ns for name in times} == times  # what is refused moves no time
    answers = dict(zip(DONE, asked(top, DONE), strict=True))
    assert {call: answer for call, answer in answers.items() if answer != "done"} == {}
    # Whose it is, and in which group: the maker's, or that of a directory with S_ISGID, which a new directory inherits.
    for name, mode, uid, gid in (
        ("free/made", 0o400, NOBODY, GROUP),
        ("free/file", 0o644, NOBODY, GROUP),
        ("free/folder", 0o755, NOBODY, GROUP),
        ("group/file", 0o644, NOBODY, 1234),
        ("group/folder", 0o2755, NOBODY, 1234),
        ("mine/f", 0o1644, NOBODY, 7),
    ):
        found = (top / name).stat()
        assert (name, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (name, mode, uid, gid)
    assert (top / "free" / "made").read_bytes() == b"made and used"
    (top / "group" / "roots").mkdir()
    assert (top / "group" / "roots").stat().st_gid == 1234 and (top / "group" / "roots").stat().st_mode & stat.S_ISGID
    asked(top, ["os.symlink('x', top / 'free/link')"])
    assert (top / "free" / "link").lstat().st_uid == NOBODY


def test_every_way_to_open_by_every_mode(mounted: Mounted) -> None:
    top = prepared(mounted.folder)
    modes = {f"{mode:03o}": mode for mode in (0o600, 0o400, 0o200, 0o100, 0o700, 0o060, 0o006, 0o007, 0)}
    for name, mode in modes.items():
        for folder, owner, group in (("mine", NOBODY, GROUP), ("free", STRANGER, GROUP), ("other", STRANGER, STRANGER)):
            (top / folder / name).write_bytes(b"content")
            os.chown(top / folder / name, owner, group)
            (top / folder / name).chmod(mode)
    wanted, calls = [], []
    for shift, folder in ((6, "mine"), (3, "free"), (0, "other")):
        for name, mode in modes.items():
            bits = mode >> shift & 7
            for flags, needed in (
                ("RDONLY", 4),
                ("WRONLY", 2),
                ("RDWR", 6),
                ("WRONLY | os.O_APPEND", 2),
                ("WRONLY | os.O_TRUNC", 2),
            ):
                calls.append(f"opened('{folder}/{name}', os.O_{flags})")
                wanted.append("done" if bits & needed == needed else "EACCES")
            calls.append(f"os.truncate(top / '{folder}/{name}', 3)")
            wanted.append("done" if bits & 2 else "EACCES")
    answers = asked(top, calls)
    assert [both for both in zip(calls, answers, wanted, strict=True) if both[1] != both[2]] == []
    for name, mode in modes.items():  # root may read and write everything, and execute what anybody may
        assert os.access(top / "mine" / name, os.R_OK | os.W_OK)
        assert os.access(top / "mine" / name, os.X_OK) == bool(mode & 0o111)


def test_a_change_by_others_takes_set_user_id_away(mounted: Mounted) -> None:
    top = prepared(mounted.folder)
    path = top / "free" / "program"
    for mode, left in ((0o4777, 0o777), (0o2777, 0o777), (0o6777, 0o777), (0o2767, 0o2767)):
        for call in ("written('{}')", "os.truncate(top / '{}', 2)", "opened('{}', os.O_WRONLY | os.O_TRUNC)"):
            path.write_bytes(b"12345")
            path.chmod(mode)
            assert asked(top, [call.format("free/program")]) == ["done"]
            assert (call, stat.S_IMODE(path.stat().st_mode)) == (call, left)
            path.unlink()
    path.write_bytes(b"")
    os.chown(path, NOBODY, GROUP)
    path.chmod(0o6755)
    assert asked(top, ["os.chown(top / 'free/program', -1, 7)"]) == ["done"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755 and path.stat().st_gid == 7
    # Who is not in the group gives a file no S_ISGID.
    assert asked(top, ["os.chmod(top / 'free/program', 0o2755)"]) == ["done"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o2755
    os.chown(path, NOBODY, STRANGER)
    assert asked(top, ["os.chmod(top / 'free/program', 0o2755)"]) == ["done"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_file_is_gone_for_one_user_and_open_for_another(mounted: Mounted) -> None:
    top = prepared(mounted.folder)
    with (top / "sticky" / "mine").open("r+b", buffering=0) as file:
        assert asked(top, ["os.unlink(top / 'sticky/mine')"]) == ["done"]
        file.write(b"kept")
        assert os.pread(file.fileno(), 9, 0) == b"kept"
        assert os.fstat(file.fileno()).st_nlink == 0 and os.fstat(file.fileno()).st_uid == NOBODY
    mounted.wait(lambda: mounted.removed() == 0, 120)
    with pytest.raises(OSError) as gone:
        (top / "sticky" / "mine").stat()
    assert gone.value.errno == errno.ENOENT
