r"""What a prompt may show of texts that others wrote, and of ids.

*Display.* A name or topic is somebody else's text. `display` makes one quoted line of it: whatever is no visible character
becomes a space (controls, line breaks, text direction, zero width; a joiner stays between two characters, where scripts
and emoji need it), white space is collapsed, the rest is cut, and written as a JSON string in which ``<``, ``>``, ``[``,
``]`` and the backtick are ``\u`` escapes too. So it cannot end its quotes or its line, nor open a tag, a link or code; and
as it never begins a line, ``#`` and ``*`` begin nothing. `json.loads` gives back what is shown.

*Ids.* A hash stands for an id, the same on every server. It hides the id from who reads a prompt, not from who can guess
it: telephone numbers are few. In a text, an id is found in any case and with any separators between its letters and
digits; so are what follows its platform prefix, and a telephone number in it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from hashlib import sha256

MAX_SHOWN_CHARACTERS = 240

# How much of a text is looked at, so that a very long one costs nothing.
_MAX_READ = 4096
# Shorter ids are everywhere in other words and numbers: they are found only where they stand alone.
_LEAST_WITHIN = 5
_LEAST_PHONE = 7

# Line and paragraph separators are white space.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co"})
_JOINERS = "\u200c\u200d"
_LONE_JOINER = re.compile(rf"(?<![^\s{_JOINERS}])[{_JOINERS}]|[{_JOINERS}](?![^\s{_JOINERS}])")
_MARKUP = re.compile(r"[<>\[\]`]")
_PREFIX = re.compile(r"([A-Za-z][A-Za-z_-]*):(.+)", re.DOTALL)


def hashed(text: str) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the text in UTF-8."""
    return sha256(text.encode()).hexdigest()[:12]


def redacted_user(user_id: str) -> str:
    """What stands for a user id: ``user_`` and its hash."""
    return f"user_{hashed(user_id)}"


def redacted_chat(chat_id: str) -> str:
    """What stands for a chat id: its hash; a platform prefix before the first ``:`` (letters, no number) is kept."""
    prefixed = _PREFIX.fullmatch(chat_id)
    return f"{prefixed[1]}:{hashed(prefixed[2])}" if prefixed else hashed(chat_id)


def looks_like_phone(name: str) -> bool:
    """Whether a name may be a telephone number: seven digits or more, and no letter."""
    return sum(map(str.isdecimal, name)) >= _LEAST_PHONE and not any(map(str.isalpha, name))


def display(text: str, *, hidden: Iterable[str] = ()) -> str:
    """A text that others wrote, as one quoted line of at most 240 characters before escaping.

    Args:
        text: a name, topic or id.
        hidden: ids that must not be seen in it; their hashes stand for them, in parentheses.
    """
    ids = tuple(hidden)
    read = text if len(text) <= _MAX_READ else text[:_MAX_READ].rpartition(" ")[0] if ids else text[:_MAX_READ]
    seen = _without(_visible(_plain(read) if ids else read), ids)[:MAX_SHOWN_CHARACTERS].rstrip(f" {_JOINERS}")
    return _MARKUP.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(seen, ensure_ascii=False))


def _plain(text: str) -> str:
    """The text with letters and digits as most write them, so that an id is found in whatever form it stands."""
    spelled = unicodedata.normalize("NFKC", text)
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in spelled)


def _visible(text: str) -> str:
    plain = "".join(c if c in _JOINERS or unicodedata.category(c) not in _UNSEEN else " " for c in text)
    return " ".join(_LONE_JOINER.sub(" ", plain).split())


def _without(text: str, ids: Iterable[str]) -> str:
    """The text with what stands for an id in place of each of these."""
    spelled = {form: redacted_chat(one) for one in ids for form in _forms(_plain(one))}
    forms = sorted(spelled, key=len, reverse=True)
    if not forms:
        return text
    # The longest first: of two ids that begin alike, no end is left over.
    any_form = re.compile("|".join(f"({_spelling(form)})" for form in forms), re.IGNORECASE)
    # The parentheses keep a hash from making up an id together with what stands beside it.
    return any_form.sub(lambda match: f"({spelled[forms[(match.lastindex or 1) - 1]]})", text)


def _forms(identifier: str) -> Iterable[str]:
    """What says an id: itself, what follows a platform prefix, telephone numbers."""
    prefixed = _PREFIX.fullmatch(identifier)
    found = (identifier, prefixed[2] if prefixed else "", *re.findall(rf"\d{{{_LEAST_PHONE},}}", identifier))
    return filter(None, (_visible(form[:MAX_SHOWN_CHARACTERS]) for form in found))


def _spelling(form: str) -> str:
    """A pattern of the form, with any separators between its letters and digits if these are many enough."""
    letters = [re.escape(character) for character in form if character.isalnum()]
    if len(letters) >= _LEAST_WITHIN:
        return r"[\W_]*".join(letters)
    literal = re.escape(form)
    return literal if len(form) >= _LEAST_WITHIN else rf"(?<![^\W_]){literal}(?![^\W_])"
