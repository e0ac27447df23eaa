"""Session keys from sources, and back.

``agent:<namespace>:<platform>:<chat_type>[:chat][:thread][:participant]``. The participant is the alternative user id, else
the user id. What is not known is left out.

==================  =================================================================================================
chat type           parts after it
==================  =================================================================================================
``dm``              chat and thread; without a chat, participant and thread
anything else       chat, thread, and the participant if each has a session of their own: in a chat by
                    `group_sessions_per_user`, in a thread by `group_sessions_per_user` and `thread_sessions_per_user`
==================  =================================================================================================

In every part ``%``, ``:`` and what a session key must not contain (control characters) are percent-escaped, as UTF-8 bytes
in capitals; nothing else is.

Guarantee: two keys are the same only if namespace, platform, chat type and every part are; `parse_session_key` gives them
back. What a key does not say is which part is which where one was left out: ``group:a:b`` is thread b of chat a or user b
in it, ``dm:a`` is a chat, a user or a thread. That is the documented format. It is safe where a platform always gives chat
ids, and its threads and users never share an id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import unquote

from sessioncache.arguments import shown
from sessioncache.conversation.source import SessionSource
from sessioncache.errors import InvalidKey
from sessioncache.keys import check_session_key

_ESCAPED = re.compile(r"[%:\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ALIASED = frozenset({"whatsapp"})
_NO_NAME = re.compile(r"[^a-z0-9._-]+")
_MAX_READABLE = 100


@dataclass(frozen=True, slots=True)
class SessionAddress:
    """What a session key says.

    Attributes:
        parts: chat, thread and participant, as far as they are in the key, in this order.
    """

    namespace: str
    platform: str
    chat_type: str
    parts: tuple[str, ...]


def build_session_key(
    source: SessionSource,
    *,
    namespace: str = "main",
    group_sessions_per_user: bool = True,
    thread_sessions_per_user: bool = False,
    canonical_aliases: bool = False,
) -> str:
    """The session key of a source: the same on every server.

    Args:
        source: where the message came from.
        namespace: separates agents that share a cache.
        group_sessions_per_user: whether each member of a chat that is no DM has a session of their own.
        thread_sessions_per_user: whether they have one in threads too.
        canonical_aliases: whether the ids of one WhatsApp user are one: without ``+`` and what follows ``:`` or ``@``.

    Raises:
        InvalidKey: the namespace is not text, or is empty; or the key would be over 512 bytes.
    """
    if not isinstance(source, SessionSource):
        raise InvalidKey(f"A session key is built from a SessionSource, not {shown(source)}.")
    if type(namespace) is not str or not namespace:
        raise InvalidKey(f"The namespace must be a str that is not empty, not {shown(namespace)}.")
    chat, participant = source.chat_id, source.user_id_alt or source.user_id
    if canonical_aliases and source.platform in _ALIASED:
        chat, participant = _canonical(chat), _canonical(participant)
    if source.chat_type == "dm":
        parts: tuple[str | None, ...] = (chat or participant, source.thread_id)
    else:
        apart = group_sessions_per_user and (thread_sessions_per_user or not source.thread_id)
        parts = (chat, source.thread_id, participant if apart else None)
    known = [part for part in parts if part]
    said = (namespace, source.platform, source.chat_type, *known)
    return check_session_key(":".join(["agent", *map(_escaped, said)]))


def parse_session_key(key: str) -> SessionAddress:
    """What a key of `build_session_key` says.

    Raises:
        InvalidKey: it is no such key.
    """
    agent, *rest = check_session_key(key).split(":")
    namespace, platform, chat_type, *parts = [_unescaped(part) for part in rest] + [""] * (3 - len(rest))
    most = 2 if chat_type == "dm" else 3
    if agent != "agent" or not all((namespace, platform, chat_type, *parts)) or len(parts) > most:
        raise InvalidKey(f"A key of a source is agent:<namespace>:<platform>:<chat_type> and parts, not {shown(key)}.")
    return SessionAddress(namespace, platform, chat_type, tuple(parts))


def storage_name(session_key: str) -> str:
    """A name for files and the like: safe, at most 165 ASCII characters, different for different keys, in any case.

    Raises:
        InvalidKey: it cannot be a session key.
    """
    readable = _NO_NAME.sub("_", check_session_key(session_key).lower())[:_MAX_READABLE].strip("._-")
    return f"{readable or 'key'}-{sha256(session_key.encode()).hexdigest()}"


def _canonical(identifier: str | None) -> str | None:
    """An id without what differs between its aliases; the id itself where nothing would be left."""
    return identifier and (re.split("[:@]", identifier, maxsplit=1)[0].replace("+", "") or identifier)


def _escaped(part: str) -> str:
    return _ESCAPED.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), part)


def _unescaped(part: str) -> str:
    """The text of a part.

    Raises:
        InvalidKey: `_escaped` does not write it like this.
    """
    text = unquote(part)
    if _escaped(text) != part:
        raise InvalidKey(f"A part of the key is escaped wrongly: {shown(part)}.")
    return text
