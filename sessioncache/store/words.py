"""What a search looks for, and in what: one rule for both databases.

A word is a run of letters, digits and marks; neither case nor the width of its characters counts, accents do. A character
of a script that puts no spaces between words (Han, Kana, Thai, Lao, Khmer, Burmese) is a word of its own, and so is a
symbol, as an emoji. Everything else separates.

The databases find the words of ASCII, of small Latin letters and of common punctuation by themselves. Of any other text
they are given what `words` makes of it, so that what is found depends neither on the database nor on its locale.
"""

from __future__ import annotations

import re
import unicodedata

# Characters of one text that can be searched for. PostgreSQL's index takes at most 1 MB of one text, and needs at most
# four bytes for each of these.
SEARCHED = 200_000
# Bytes; PostgreSQL's index leaves longer words out.
LONGEST_WORD = 2000
# Words of one query; what follows them is not looked for.
MOST_WORDS = 64

# Separators, as a character class without its brackets; PostgreSQL's index is made with the same.
SEPARATORS = "!-/:-@\\[-`{-~\u00a0\u00ab\u00b7\u00bb\u2013\u2014\u2018\u2019\u201c\u201d\u201e\u2022\u2026\u2192\ufffd"

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\uaa60-\uaa7f\ua9e0-\ua9ff"
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_IGNORED = re.compile("[\u00ad\u034f\u061c\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
_WIDE = re.compile("[\uff00-\uffef]+")
_ONE_BY_ONE = re.compile(rf"[{_UNSPACED}]|[^\w\x00-\x7f]")
_BETWEEN = re.compile(rf"[\x00-\x20\x7f{SEPARATORS}]+")


def _folded(text: str) -> str:
    composed = unicodedata.normalize("NFC", text)
    narrow = _WIDE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), composed)
    return unicodedata.normalize("NFC", narrow.casefold())


_SMALL = "".join(letter for letter in map(chr, range(0x80, 0x250)) if letter.isalpha() and _folded(letter) == letter)
_PLAIN = re.compile(rf"[\x00-\x7f{SEPARATORS}{_SMALL}]*")


def words(text: str) -> str:
    """The text as it is where both databases find its words alike; else folded, with spaces between its words."""
    if _PLAIN.fullmatch(text):
        return text
    return " ".join(_ONE_BY_ONE.sub(_apart, _IGNORED.sub("", _folded(text))).split())


def _apart(found: re.Match[str]) -> str:
    character = found[0]
    kind = unicodedata.category(character)
    if kind == "So":
        return f" u{ord(character):x} "  # most tokenizers drop symbols, none drops this
    if kind[0] in "LMN":
        unspaced = kind[0] != "M" or _UNSPACED_MARK.match(character)
        return f" {character} " if unspaced else character
    return " "


_UNSPACED_MARK = re.compile(f"[{_UNSPACED}]")


def searchable(text: str) -> str | None:
    """What the index is to hold in place of this text; None where it is the text itself."""
    if text.isascii():
        return None
    head = text[:SEARCHED]
    made = words(head)[:SEARCHED]
    return None if made == head else made


def title_words(title: str | None) -> str | None:
    """What goes to ``title_words`` together with this title."""
    return None if title is None else searchable(title)


def terms(query: str) -> list[str]:
    """What a query asks for: each term one word, or several with spaces between that must stand side by side.

    Nothing in it is an operator. None, if nothing in it is a word, or if one is too long to be found.
    """
    found: dict[str, None] = {}
    left = MOST_WORDS
    for part in query.split():
        inside = _BETWEEN.sub(" ", words(part)).lower().split()[:left]
        left -= len(inside)
        if any(len(word.encode()) > LONGEST_WORD for word in inside):
            return []
        if inside:
            found[" ".join(inside)] = None
    return list(found)
