"""The house rules a parser can check, and for each check a proof that it can fail.

A check takes one parsed file and yields complaints; the checks that need the whole tree take all files. To break a length
rule on purpose, say why in a docstring line that begins with the words in `EXCUSE`.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
MAY_IMPORT: Final = {
    "iov": frozenset[str](),
    "transport": frozenset({"iov"}),
    "crypto": frozenset({"iov"}),
    "servers": frozenset({"transport", "iov"}),
    "netfs": frozenset({"crypto", "transport", "iov"}),
    "trials": frozenset({"netfs", "servers", "crypto", "transport", "iov"}),
}
# Who may import a library that would otherwise spread: a folder ends in "/".
LIBRARY_DOORS: Final = {
    "cryptography": ("crypto/", "transport/security.py"),
    "msgpack": ("transport/codec.py",),
}
DATA_PATH: Final = ("iov/", "transport/", "crypto/content.py", "netfs/engine/", "netfs/cache/")
KINDS: Final = ("Sans-IO.", "Trio shell.")
NOT_SANS_IO: Final = frozenset(
    {
        "asyncio", "multiprocessing", "random", "secrets", "select", "selectors", "signal",
        "socket", "ssl", "subprocess", "threading", "time", "trio", "uuid",
    }
)  # fmt: skip
WORLD: Final = frozenset({"random", "secrets", "time", "uuid"})
ENV: Final = "transport/env.py"
VAGUE_NAMES: Final = frozenset({"common", "helper", "helpers", "misc", "util", "utils"})
EXCUSE: Final = "Over the limit because"
EXPLAINED: Final = re.compile(r"# (door|header): \S")
MACHINE_PATH: Final = re.compile(r"(?<![\w.])/(home|root|Users|work)/\w")
PAGE: Final = re.compile(r"[\w-]+[.]md\b")
FILE_LINES, FUNCTION_LINES = 500, 70

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Source:
    path: str
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.path.split("/")[0]

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def is_init(self) -> bool:
        return self.path.endswith("__init__.py")

    @property
    def is_product(self) -> bool:
        return self.package in MAY_IMPORT

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def is_sans_io(self) -> bool:
        return self.doc.startswith("Sans-IO.")


def parse(path: str, text: str) -> Source:
    return Source(path, text, ast.parse(text, path))


def load() -> list[Source]:
    folders = [ROOT / name for name in (*MAY_IMPORT, "tests", "bench", "examples")]
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return [parse(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for each import, `from a import b` as both `a` and `a.b`, relative ones resolved."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = source.module.split(".")
                kept = parts[: len(parts) - node.level + (1 if source.is_init else 0)]
                base = ".".join([*kept, base] if base else kept)
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def calls_of_urandom(source: Source) -> Iterator[int]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr == "urandom":
            yield node.lineno


def excused(doc: str | None) -> bool:
    return any(line.strip().startswith(EXCUSE) for line in (doc or "").splitlines())


def lines_without_docstring(node: Function) -> int:
    total = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is None:
        return total
    first = node.body[0]
    return total - ((first.end_lineno or first.lineno) - first.lineno + 1)


# ---- checks of one file


def check_file_length(source: Source) -> Iterator[str]:
    count = len(source.text.splitlines())
    if count > FILE_LINES and not excused(source.doc):
        yield f"{source.path}: {count} lines, the limit is {FILE_LINES}"


def check_function_length(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, Function) and not excused(ast.get_docstring(node)):
            count = lines_without_docstring(node)
            if count > FUNCTION_LINES:
                yield f"{source.path}:{node.lineno}: {node.name} has {count} lines, the limit is {FUNCTION_LINES}"


def check_init_only_re_exports(source: Source) -> Iterator[str]:
    if not source.is_init:
        return
    if source.is_product and not source.doc:
        yield f"{source.path}: no docstring"
    for node in source.tree.body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant(value=str())):
                continue
            case ast.Assign(targets=[ast.Name(id="__all__")]) | ast.AnnAssign(target=ast.Name(id="__all__")):
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=[ast.Assign(targets=[ast.Name(id="__getattr__")])]):
                # The same re-exports, made when they are asked for (transport/on_demand.py).
                for inner in body:
                    if not isinstance(inner, ast.ImportFrom):
                        yield f"{source.path}:{inner.lineno}: only re-exports belong here"
            case _:
                yield f"{source.path}:{node.lineno}: only a docstring, re-exports and __all__ belong here"


def check_kind_is_named(source: Source) -> Iterator[str]:
    if source.is_product and not source.is_init and not source.doc.startswith(KINDS):
        yield f"{source.path}: the first line of the docstring begins with none of {', '.join(KINDS)}"


def check_sans_io(source: Source) -> Iterator[str]:
    if not source.is_product or not source.is_sans_io:
        return
    for line, name in imports(source):
        if name.split(".")[0] in NOT_SANS_IO or name == "os.urandom":
            yield f"{source.path}:{line}: a sans-IO module imports {name}"
    for line in calls_of_urandom(source):
        yield f"{source.path}:{line}: a sans-IO module calls os.urandom"


def check_world_comes_in_through_env(source: Source) -> Iterator[str]:
    if not source.is_product or source.package == "trials" or source.path == ENV:
        return
    for line, name in imports(source):
        if name.split(".")[0] in WORLD or name == "os.urandom":
            yield f"{source.path}:{line}: imports {name}; time and randomness come in through Env"
    for line in calls_of_urandom(source):
        yield f"{source.path}:{line}: os.urandom; randomness comes in through Env"


def check_arrows(source: Source) -> Iterator[str]:
    if not source.is_product:
        return
    for line, name in imports(source):
        top = name.split(".")[0]
        if top == "tests" or (top in MAY_IMPORT and top not in MAY_IMPORT[source.package] | {source.package}):
            yield f"{source.path}:{line}: {source.package} may not import {name}"


def check_library_doors(source: Source) -> Iterator[str]:
    if not source.is_product:
        return
    for line, name in imports(source):
        doors = LIBRARY_DOORS.get(name.split(".")[0])
        if doors is not None and not is_under(source.path, doors):
            yield f"{source.path}:{line}: {name} is imported only in {', '.join(doors)}"


def check_payload_stays_in_place(source: Source) -> Iterator[str]:
    if not is_under(source.path, DATA_PATH):
        return
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        match node:
            case ast.Call(func=ast.Name(id="bytes"), args=[ast.Constant(value=int())]):
                continue  # zeros of a fixed length, not a copy
            case ast.Call(func=ast.Name(id="bytes"), args=[_, *_]):
                what = "bytes()"
            case ast.Call(func=ast.Attribute(attr="tobytes")):
                what = ".tobytes()"
            case ast.Call(func=ast.Attribute(attr="join", value=ast.Constant(value=bytes()))):
                what = 'b"".join'
            case _:
                continue
        if not any(EXPLAINED.search(line) for line in lines[node.lineno - 1 : node.end_lineno]):
            yield f"{source.path}:{node.lineno}: {what} on the data path; explain it with # door: or # header:"


def check_names_say_something(source: Source) -> Iterator[str]:
    vague = VAGUE_NAMES.intersection(source.module.split("."))
    if vague:
        yield f"{source.path}: {', '.join(sorted(vague))} is not the name of one concern"


def is_under(path: str, doors: Iterable[str]) -> bool:
    return any(path.startswith(door) if door.endswith("/") else path == door for door in doors)


# ---- checks of the whole tree


def check_dead_modules(sources: Iterable[Source], entry_points: Iterable[str]) -> Iterator[str]:
    sources = [source for source in sources if source.is_product]
    used = {name for source in sources for _, name in imports(source) if name != source.module}
    used.update(entry.split(":")[0] for entry in entry_points)
    for source in sources:
        if not source.is_init and source.module not in used and not source.module.endswith(".__main__"):
            yield f"{source.path}: no product module imports it and no entry point names it"


def check_cores_import_no_shell(sources: Iterable[Source]) -> Iterator[str]:
    """Complain of a sans-IO module that imports a shell: the decision would then hang on something that waits.

    `Env` is a frozen value, which a core may name in a signature.
    """
    sources = [source for source in sources if source.is_product and not source.is_init]
    shells = {source.module for source in sources if not source.is_sans_io and source.path != ENV}
    for source in sources:
        if source.is_sans_io:
            for line, name in imports(source):
                if name in shells:
                    yield f"{source.path}:{line}: a sans-IO module imports the shell {name}"


def check_test_folders(tests: Path) -> Iterator[str]:
    for folder in sorted({path.parent for path in tests.rglob("*.py")}):
        if not (folder / "__init__.py").is_file():
            yield f"{folder.relative_to(tests.parent)}: no __init__.py, so a folder named after a package would hide it"


def check_machine_paths(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if MACHINE_PATH.search(line):
            yield f"{path}:{number}: a path of one machine"


def check_pages_exist(path: str, text: str, pages: Collection[str]) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        for page in PAGE.findall(line):
            if page not in pages:
                yield f"{path}:{number}: {page} is no page of this project; name the source itself"


def entry_points() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project.get("scripts", {}), *project.get("entry-points", {}).values()]
    return [target for group in groups for target in group.values()]


def texts() -> Iterator[tuple[str, str]]:
    folders = [ROOT / name for name in (*MAY_IMPORT, "tests", "bench", "docs", "examples", "stubs", ".ci")]
    paths = [path for folder in folders for path in folder.rglob("*")] + list(ROOT.glob("*"))
    wanted = {".py", ".pyi", ".md", ".toml", ".sh", ".json", ""}
    for path in sorted(paths):
        if path.is_file() and path.suffix in wanted and "__pycache__" not in path.parts and not path.name.startswith("."):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


# ---- the tree obeys

FILE_CHECKS: Final[tuple[Callable[[Source], Iterator[str]], ...]] = (
    check_file_length,
    check_function_length,
    check_init_only_re_exports,
    check_kind_is_named,
    check_sans_io,
    check_world_comes_in_through_env,
    check_arrows,
    check_library_doors,
    check_payload_stays_in_place,
    check_names_say_something,
)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return load()


def obey(complaints: Iterable[str]) -> None:
    found = list(complaints)
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("check", FILE_CHECKS)
def test_files(check: Callable[[Source], Iterator[str]], sources: list[Source]) -> None:
    obey(complaint for source in sources for complaint in check(source))


def test_no_dead_modules(sources: list[Source]) -> None:
    obey(check_dead_modules(sources, entry_points()))


def test_cores_import_no_shell(sources: list[Source]) -> None:
    obey(check_cores_import_no_shell(sources))


def test_every_test_folder_is_a_package() -> None:
    obey(check_test_folders(ROOT / "tests"))


def test_no_machine_paths() -> None:
    obey(complaint for path, text in texts() for complaint in check_machine_paths(path, text))


def test_pages_that_are_named_exist() -> None:
    pages = {path.name for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))}
    obey(complaint for path, text in texts() for complaint in check_pages_exist(path, text, pages))


# ---- each check can fail

BODY = "    x = 1\n"
LONG = "def f():\n" + BODY * 70
JOIN = 'b"".join(parts)'
BAD: Final = (
    (check_file_length, "iov/a.py", "x = 1\n" * 501),
    (check_function_length, "iov/a.py", LONG),
    (check_function_length, "tests/a.py", "class C:\n" + "".join("    " + line for line in LONG.splitlines(keepends=True))),
    (check_init_only_re_exports, "iov/__init__.py", '"""Doc."""\nx = 1\n'),
    (check_init_only_re_exports, "iov/__init__.py", "from .a import b\n"),
    (check_init_only_re_exports, "iov/__init__.py", '"""Doc."""\nif TYPE_CHECKING:\n    x = 1\nelse:\n    __getattr__ = f()\n'),
    (check_init_only_re_exports, "iov/__init__.py", '"""Doc."""\nif TYPE_CHECKING:\n    import b\nelse:\n    x = 1\n'),
    (check_kind_is_named, "iov/a.py", '"""Some module."""\n'),
    (check_kind_is_named, "iov/a.py", ""),
    (check_sans_io, "iov/a.py", '"""Sans-IO. X."""\nimport trio.lowlevel\n'),
    (check_sans_io, "iov/a.py", '"""Sans-IO. X."""\ndef f():\n    from time import monotonic\n'),
    (check_sans_io, "iov/a.py", '"""Sans-IO. X."""\nimport os\nos.urandom(4)\n'),
    (check_sans_io, "iov/a.py", '"""Sans-IO. X."""\nfrom os import urandom\n'),
    (check_world_comes_in_through_env, "netfs/fs/a.py", "import time\n"),
    (check_world_comes_in_through_env, "servers/a.py", "import os\nos.urandom(4)\n"),
    (check_arrows, "iov/a.py", "import transport\n"),
    (check_arrows, "servers/a.py", "from crypto import keys\n"),
    (check_arrows, "servers/stores/a.py", "from netfs.engine import split\n"),
    (check_arrows, "transport/a.py", "import crypto.keys\n"),
    (check_arrows, "netfs/a.py", "import servers\n"),
    (check_arrows, "netfs/a.py", "import trials.pair\n"),
    (check_arrows, "trials/a.py", "import tests.conftest\n"),
    (check_library_doors, "servers/a.py", "from cryptography.hazmat.primitives.ciphers import aead\n"),
    (check_library_doors, "transport/framing.py", "import msgpack\n"),
    (check_payload_stays_in_place, "iov/a.py", "y = bytes(x)\n"),
    (check_payload_stays_in_place, "transport/rdma/a.py", "y = x.tobytes()\n"),
    (check_payload_stays_in_place, "netfs/engine/a.py", f"y = {JOIN}\n"),
    (check_payload_stays_in_place, "crypto/content.py", "y = bytes(x) # header:\n"),
    (check_names_say_something, "iov/utils.py", ""),
)
GOOD: Final = (
    (check_file_length, "iov/a.py", f'"""X.\n\n{EXCUSE} it is a table.\n"""\n' + "x = 1\n" * 501),
    (check_function_length, "iov/a.py", "def f():\n" + '    """D.\n\n    More.\n    """\n' + BODY * 69),
    (check_function_length, "iov/a.py", f'def f():\n    """D.\n\n    {EXCUSE} of that.\n    """\n' + BODY * 90),
    (check_init_only_re_exports, "iov/__init__.py", '"""Doc."""\nfrom .a import b\n__all__ = ["b"]\n'),
    (
        check_init_only_re_exports,
        "iov/__init__.py",
        '"""Doc."""\nif TYPE_CHECKING:\n    from a import b\nelse:\n    __getattr__ = f()\n',
    ),
    (check_kind_is_named, "iov/a.py", '"""Sans-IO. A module."""\n'),
    (check_kind_is_named, "tests/a.py", '"""A test."""\n'),
    (check_sans_io, "netfs/a.py", '"""Trio shell. X."""\nimport trio\n'),
    (check_world_comes_in_through_env, ENV, "import random\n"),
    (check_world_comes_in_through_env, "trials/bench.py", "import time\n"),
    (check_arrows, "trials/a.py", "import netfs.engine, servers, iov\nfrom .pair import x\n"),
    (check_library_doors, "crypto/a.py", "import cryptography\n"),
    (check_payload_stays_in_place, "iov/a.py", "y = bytes(x)  # door: File.read returns bytes\nz = bytes(4)\n"),
    (check_payload_stays_in_place, "servers/a.py", "y = bytes(x)\n"),
)


@pytest.mark.parametrize(("check", "path", "text"), BAD, ids=[f"{row[0].__name__}-{n}" for n, row in enumerate(BAD)])
def test_check_can_fail(check: Callable[[Source], Iterator[str]], path: str, text: str) -> None:
    assert list(check(parse(path, text)))


@pytest.mark.parametrize(("check", "path", "text"), GOOD, ids=[f"{row[0].__name__}-{n}" for n, row in enumerate(GOOD)])
def test_check_can_pass(check: Callable[[Source], Iterator[str]], path: str, text: str) -> None:
    assert list(check(parse(path, text))) == []


def test_every_file_check_is_proved() -> None:
    assert {row[0] for row in BAD} == set(FILE_CHECKS)


def test_relative_imports_are_resolved() -> None:
    assert [name for _, name in imports(parse("netfs/fs/a.py", "from ..engine import b\n"))] == ["netfs.engine", "netfs.engine.b"]
    assert [name for _, name in imports(parse("iov/__init__.py", "from .a import b\n"))] == ["iov.a", "iov.a.b"]


def test_dead_module_is_found() -> None:
    tree = [
        parse("iov/__init__.py", "from .a import x\n"),
        parse("iov/a.py", ""),
        parse("iov/b.py", "import iov.b\n"),
        parse("iov/c.py", ""),
    ]
    assert [line.split(":")[0] for line in check_dead_modules(tree, ["iov.c:main"])] == ["iov/b.py"]


def test_shell_under_a_core_is_found() -> None:
    tree = [parse("iov/a.py", '"""Sans-IO. A."""\nfrom .b import f\n'), parse("iov/b.py", '"""Trio shell. B."""\n')]
    assert [line.split(":")[0] for line in check_cores_import_no_shell(tree)] == ["iov/a.py"]


def test_missing_test_package_is_found(tmp_path: Path) -> None:
    (tmp_path / "tests" / "iov").mkdir(parents=True)
    (tmp_path / "tests" / "iov" / "test_a.py").touch()
    assert len(list(check_test_folders(tmp_path / "tests"))) == 1


# The parts are joined by str.join here so that this file itself holds no such path.
@pytest.mark.parametrize("parts", [("", "home", "me"), ("see ", "Users", "me"), ("'", "work", "x"), ("", "root", "x")])
def test_machine_path_is_found(parts: tuple[str, ...]) -> None:
    assert list(check_machine_paths("a.py", "/".join(parts)))


def test_a_page_of_nowhere_is_found() -> None:
    text = "After docs/known" + ".md, RFC 1071 and elsewhere" + ".md 1.3.\n"
    assert list(check_pages_exist("iov/a.py", text, {"known" + ".md"})) == [
        "iov/a.py:1: elsewhere" + ".md is no page of this project; name the source itself"
    ]


def test_path_in_a_url_is_no_machine_path() -> None:
    assert not list(check_machine_paths("README.md", "netfs://host/home/me"))
