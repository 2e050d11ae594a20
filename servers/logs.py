"""Trio shell. The server's log on standard error: an event and its fields, as text or as one JSON object in a line.

What may be told is decided where it is logged: names, addresses, fingerprints, counts, errors; never a key, a session's name or
what is in a file. Owns no memory.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Final

__all__ = ["JsonLines", "start_logging"]

TEXT: Final = "%(asctime)s level=%(levelname)s event=%(message)s"
_FIELD: Final = re.compile(r" (\w+)=")


class JsonLines(logging.Formatter):
    """`event key=value key=value` as an object with those keys, and time, level and logger."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event, *rest = _FIELD.split(record.getMessage())
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event,
        }
        for name, value in zip(rest[::2], rest[1::2], strict=True):
            said.setdefault(name, value)
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


def start_logging(*, verbose: bool, as_json: bool) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if verbose else logging.WARNING)
