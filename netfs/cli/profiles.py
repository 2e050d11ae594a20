"""Sans-IO. Profiles: short names for places on servers, and what is always said with them.

    ~/.config/netfs/netfs.toml
        [profile.work]
        url = "netfs://files.example.org/team"
        identity = "~/.ssh/work.id"
        timeout = 10

`work:photos/2026` is then that URL with `/photos/2026` behind it, and the command behaves as if the other lines were options;
what is said on the command line, or by an environment variable, goes before. Owns no memory.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["OPTIONS", "Profile", "expanded", "parse_profiles"]

OPTIONS: Final[dict[str, type | tuple[type, ...]]] = {
    "key_file": str, "identity": str, "known_hosts": str, "ca": str, "passphrase": bool, "fingerprint": str, "cache_dir": str,
    "hard": bool, "timeout": (int, float), "channels": int, "roce": bool,
}  # fmt: skip
"""What a profile may say, besides its URL, and of which type."""
PATHS: Final = frozenset({"key_file", "identity", "known_hosts", "ca", "cache_dir"})


@dataclass(frozen=True, slots=True)
class Profile:
    """A name's URL and options."""

    name: str
    url: str
    options: Mapping[str, Any] = field(default_factory=dict)


def parse_profiles(text: str) -> dict[str, Profile]:
    """Read the profiles of a config file. Raises: ValueError with one line that says what is wrong."""
    try:
        tables = tomllib.loads(text).get("profile", {})
    except tomllib.TOMLDecodeError as error:
        raise ValueError(str(error)) from None
    if not isinstance(tables, dict):
        raise ValueError("profiles are tables: write [profile.name]")
    return {name: _profile(name, table) for name, table in tables.items()}


def _profile(name: str, table: object) -> Profile:
    if not isinstance(table, dict):
        raise ValueError(f"profile {name}: write [profile.{name}]")
    if "/" in name or ":" in name:
        raise ValueError(f"profile {name!r}: a name has neither slash nor colon")
    url = table.get("url")
    if not isinstance(url, str) or "://" not in url:
        raise ValueError(f"profile {name}: needs a url")
    options = {}
    for key, value in table.items():
        if key == "url":
            continue
        kind = OPTIONS.get(key)
        if kind is None:
            raise ValueError(f"profile {name}: {key} is not an option of a profile; there are {', '.join(OPTIONS)}")
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise ValueError(f"profile {name}: {key} = {value!r} is of the wrong type")
        options[key] = str(Path(str(value)).expanduser()) if key in PATHS else value
    return Profile(name, url, options)


def expanded(text: str, profiles: Mapping[str, Profile]) -> tuple[str, Profile | None]:
    """Return the URL an argument stands for, and its profile; other arguments as they are."""
    name, colon, rest = text.partition(":")
    profile = profiles.get(name) if colon and not rest.startswith("//") else None
    if profile is None:
        return text, None
    if profile.url.startswith("netfs+unix://") and ":/" not in profile.url.removeprefix("netfs+unix://"):
        return f"{profile.url}:/{rest.lstrip('/')}", profile
    return f"{profile.url.rstrip('/')}/{rest.lstrip('/')}", profile
