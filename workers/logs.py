"""Logs of workers: lines of text, or one JSON object on each line, for whatever gathers logs.

Guarantee: what the library knows about a line stands in fields of the names of `FIELDS`, the same as in metrics, spans and
`--json`; none of them is a message's content or a secret.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

# What lines may carry besides time, level, logger and message.
FIELDS = ("session_key", "session_id", "version", "lane", "ops", "reason", "worker")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """A log record as JSON: ``time``, ``level``, ``logger``, ``message``, ``trace`` of an exception, and `FIELDS`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: str, form: str) -> None:
    """Write logs of this level and above to standard error, as ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])
