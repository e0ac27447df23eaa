"""What of a text a model should see again, and what it should see besides.

Models repeat what they are shown: the line that says when a message was sent, the breadcrumb of an image, a call of a tool
written as text. `cleaned` takes these out of what an assistant said; cleaning twice changes nothing more. `annotated` puts
the first two onto what a user said. Only text changes; the row that was given never does. Every pattern takes time linear
in the text, whatever it is.
"""

from __future__ import annotations

import re
from typing import Any

from sessioncache.conversation.shapes import TEXTS, THINKING, Row, blocks

# Patterns of a whole line without the white space around it.
_TIME = re.compile(r"\[Message Time: [^\]]*\]")
_LEFT_OUT = re.compile(
    r"""\[image:\ [/~][^\]]*\]
    | (?:generate_image|message) \( (?: [^)]* | (?: [^()"'] | "[^"]*+" | '[^']*+' )*+ ) \)""",
    re.VERBOSE,
)


def cleaned(text: str) -> str:
    """What an assistant said, without echoes of what it was shown: leading times, breadcrumbs and calls, line by line."""
    lines = [line for line in text.split("\n") if not _LEFT_OUT.fullmatch(line.strip())]
    first = next((at for at, line in enumerate(lines) if line.strip() and not _TIME.fullmatch(line.strip())), len(lines))
    return "\n".join(lines[first:]).strip()


def clean(row: Row) -> dict[str, Any]:
    """An assistant row with its text cleaned: a string, or the text blocks; a text block that is blank then goes."""
    content = row.get("content")
    if isinstance(content, str):
        return {**row, "content": cleaned(content)}
    if isinstance(content, list):
        return {**row, "content": [block for each in content if (block := _clean_block(each)) is not None]}
    return dict(row)


def _clean_block(block: Any) -> Any:
    """The block, a copy with clean text, or None."""
    if not isinstance(block, dict) or block.get("type") not in TEXTS or not isinstance(block.get("text"), str):
        return block
    text = cleaned(block["text"])
    return {**block, "text": text} if text else None


def annotated(row: Row, timestamp: str | None) -> dict[str, Any]:
    """A user row whose text says which media came with it, and, if a timestamp is given, when it was sent.

    List content stays as it is.
    """
    text = row.get("content")
    if not isinstance(text, str):
        return dict(row)
    media = row.get("media")
    paths = [path for path in (media if isinstance(media, list) else ()) if isinstance(path, str) and path]
    lines = [f"[Message Time: {timestamp}]"] if timestamp is not None else []
    lines += [text] if text else []
    return {**row, "content": "\n".join(lines + [f"[image: {path}]" for path in paths])}


def is_blank(row: Row) -> bool:
    """Whether an assistant row says nothing: no text, no call, no reasoning."""
    if row.get("role") != "assistant" or any(
        row.get(name) for name in ("tool_calls", "reasoning_content", "thinking_blocks")
    ):
        return False
    return says_nothing(row)


def says_nothing(row: Row) -> bool:
    """Whether its content is blank: null, white space, or nothing but blank text and thinking."""
    content = row.get("content")
    if isinstance(content, list):
        return len(content) == sum(_is_silent(block) for _, block in blocks(row))
    return content is None or (isinstance(content, str) and not content.strip())


def _is_silent(block: dict[str, Any]) -> bool:
    kind = block.get("type")
    return kind in THINKING or (kind in TEXTS and not str(block.get("text") or "").strip())
