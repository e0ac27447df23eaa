"""Where a message came from: platform, chat, thread and user.

A source is what an adapter of a platform knows, and nothing else: ids and names as they are, not made safe for anything. A
session key is made of it (`conversation.key`), a prompt tells of it (`conversation.prompt`), a session may keep it as its
origin (`to_dict`).

Guarantee: ids are text, whatever they were given as; empty text is None; every text is valid UTF-8. So `from_dict` of
`to_dict` is the same source, also after JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from sessioncache.arguments import shown
from sessioncache.errors import InvalidInput

LOCAL = "local"

_IDS = ("chat_id", "thread_id", "user_id", "user_id_alt", "chat_id_alt")
_ALTERNATIVES = ("user_id_alt", "chat_id_alt")
_MAX_ID_BITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSource:
    """Where a message came from. Ids may be given as integers.

    Attributes:
        platform: any name, such as ``telegram``; ``local`` is the machine itself.
        chat_type: ``dm``, ``group``, ``channel``, ``thread`` or another word of the platform's.
        user_id_alt: an id of the user that stays the same where `user_id` does not; it stands for the user in keys.
        chat_id_alt: another id of the chat.

    Raises:
        InvalidInput: no platform; a value is not text (or, for ids, an integer up to 64 bit); or it has a lone surrogate.
    """

    platform: str
    chat_id: str | None = None
    chat_name: str | None = None
    chat_type: str = "dm"
    user_id: str | None = None
    user_name: str | None = None
    thread_id: str | None = None
    chat_topic: str | None = None
    user_id_alt: str | None = None
    chat_id_alt: str | None = None

    def __post_init__(self) -> None:
        """Make text of ids and None of empty text; refuse what is neither."""
        for one in fields(self):
            read = id_of if one.name in _IDS else text_of
            value = read(getattr(self, one.name), f"The {one.name} of a source")
            object.__setattr__(self, one.name, value)
        if not self.platform:
            raise InvalidInput("A source names its platform, such as 'telegram' or 'local'.")
        object.__setattr__(self, "chat_type", self.chat_type or "dm")

    @classmethod
    def local_cli(cls) -> SessionSource:
        """The terminal of the machine itself."""
        return cls(platform=LOCAL, chat_id="cli", chat_name="CLI terminal")

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object]) -> SessionSource:
        """The source that `to_dict` wrote. Names that a source does not have are left out.

        Raises:
            InvalidInput: it is no mapping, or no source can be made of it.
        """
        if not isinstance(mapping, Mapping):
            raise InvalidInput(f"A source is read from a mapping, not {type(mapping).__name__}.")
        return cls(**{one.name: mapping.get(one.name) for one in fields(cls)})  # type: ignore[arg-type]  # it checks

    def to_dict(self) -> dict[str, str | None]:
        """The source as JSON can say it; the alternative ids only where there are any."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in named.items() if value is not None or name not in _ALTERNATIVES}

    @property
    def description(self) -> str:
        """What a person would call it, such as ``group: Family, thread: 7``; with names as they are, for logs and lists."""
        if self.platform == LOCAL:
            return "CLI terminal"
        place = self._place()
        return f"{place}, thread: {self.thread_id}" if self.thread_id else place

    def _place(self) -> str:
        if self.chat_type == "dm":
            return f"DM with {self.user_name or self.user_id or 'user'}"
        chat = self.chat_name or self.chat_id
        if self.chat_type in {"group", "channel"}:
            return f"{self.chat_type}: {chat}" if chat else self.chat_type
        return chat or "chat"


def id_of(value: object, what: str) -> str | None:
    """An id as text; None for an empty one.

    Raises:
        InvalidInput: neither text nor an integer up to 64 bit.
    """
    return text_of(str(value) if type(value) is int and value.bit_length() <= _MAX_ID_BITS else value, what)


def text_of(value: object, what: str) -> str | None:
    """The text itself; None for an empty one.

    Raises:
        InvalidInput: no text, or not valid UTF-8.
    """
    if value is None:
        return None
    if type(value) is not str:
        raise InvalidInput(f"{what} must be a str, not {shown(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} contains a lone surrogate and is not valid UTF-8.") from error
    return value or None
