"""Names of users: which can be registered, which are one name, and which look alike."""

from __future__ import annotations

import unicodedata

# Cyrillic, Greek and phonetic letters that are drawn as Latin ones: the single letters among the confusables of Unicode
# Technical Standard 39, and the small k, n and x that differ in details only.
_SMALL_WORDS = (
    "a\u0251\u03b1\u0430 c\u0441 d\u0501 e\u0435 g\u0261 h\u04bb i\u0131\u0269\u03b9\u0456 j\u0458 "
    "k\u03ba\u043a l\u04cf n\u03b7 o\u03bf\u03c3\u043e p\u03c1\u0440 q\u051b s\u0455 u\u03c5 "
    "v\u03bd\u0475 w\u051d x\u03c7\u0445 y\u03b3\u0443\u04af"
)
_CAPITAL_WORDS = (
    "A\u0391\u0410 B\u0392\u0412 C\u0421 E\u0395\u0415 F\u03dc G\u050c H\u0397\u041d "
    "I\u0399\u0406\u04c0 J\u037f\u0408 K\u039a\u041a M\u039c\u041c N\u039d O\u039f\u041e "
    "P\u03a1\u0420 S\u0405 T\u03a4\u0422 V\u0474 W\u051c X\u03a7\u0425 Y\u03a5\u0423\u04ae Z\u0396"
)
_SMALL, _CAPITAL = ({word[0]: word[1:] for word in words.split()} for words in (_SMALL_WORDS, _CAPITAL_WORDS))
"""The letters that are drawn as a Latin one: each word begins with that."""
_AS_SMALL = str.maketrans({other: latin for latin, others in _SMALL.items() for other in others})
_AS_CAPITAL = str.maketrans({other: latin for latin, others in _CAPITAL.items() for other in others})
_UNSEEN = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)}
_UNSEEN |= set(range(0xE0000, 0xE1000))  # tags and more variation selectors
_BRAILLE_BLANK = "\u2800"


def is_user_id(name: str) -> bool:
    """Whether a name can be registered: printable, on one line, no spaces around it, something of it to be seen."""
    return bool(name) and name == name.strip() and name.isprintable() and bool(same_name(name))


def written_form(name: str) -> str:
    """The form in which a name is kept: Unicode's NFC, in which an accented letter is one character."""
    return unicodedata.normalize("NFC", name)


def same_name(name: str) -> str:
    """What is equal for all ways of writing one name: capitals, accents, widths, blanks and invisible characters.

    Names are compared in NFKC, casefolded, without characters that are not shown, each run of blanks as one.
    """
    if name.isascii():
        return " ".join(name.split()).lower()
    return _folded(_seen(name))


def looks_of(name: str) -> set[str]:
    """What a name looks like: two names with a look in common can be taken for each other.

    A name is seen as it is written, in small letters and in capitals, because case does not tell users apart; Cyrillic
    and Greek letters that are drawn as Latin ones count as those, and accents as they are. Not caught: letters and
    digits within Latin that resemble each other (l and 1, O and 0, m and rn), other alphabets, and the same letters
    with another accent.
    """
    if name.isascii():
        return {same_name(name)}
    letters = unicodedata.normalize("NFD", _seen(name))
    as_latin = letters.lower().translate(_AS_SMALL), letters.upper().translate(_AS_CAPITAL)
    return {_folded(form) for form in (letters, letters.translate(_AS_SMALL | _AS_CAPITAL), *as_latin)}


def shown_name(name: str) -> str:
    """A name for a message: quoted, with the codes of letters that could be mistaken for others."""
    return repr(name) if name.isascii() else f"{name!r} ({name!a})"


class NameIndex:
    """Names that are taken, found by what they are and by what they look like."""

    def __init__(self) -> None:
        self._same: dict[str, str] = {}  # the first of equal names
        self._others: dict[str, list[str]] = {}  # those after it, of which there are hardly any
        self._looks: dict[str, str] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str) -> None:
        """Take a name."""
        same = same_name(name)
        if self._same.setdefault(same, name) is not name:
            self._others.setdefault(same, []).append(name)
        for look in (same,) if name.isascii() else looks_of(name):
            self._looks.setdefault(look, name)
        self._count += 1

    def same(self, name: str) -> str | None:
        """The name taken that is this one, however it is written; None if there is none, or more than one."""
        same = same_name(name)
        if same not in self._same:
            return None
        found = [self._same[same], *self._others.get(same, [])]
        found = [taken for taken in found if written_form(taken) == written_form(name)] or found
        return found[0] if len(found) == 1 else None

    def alike(self, name: str) -> str | None:
        """A name taken that this one can be taken for, itself included."""
        if name.isascii():
            return self._looks.get(same_name(name))
        return next((self._looks[look] for look in looks_of(name) if look in self._looks), None)


def _seen(name: str) -> str:
    """A name in NFKC, without characters that are not shown, each run of blanks as one."""
    name = unicodedata.normalize("NFKC", name.replace(_BRAILLE_BLANK, " "))
    seen = (char for char in name if ord(char) not in _UNSEEN and unicodedata.category(char) != "Cf")
    return " ".join("".join(seen).split())


def _folded(name: str) -> str:
    """A name without case; a dotted capital I folds to an i with a dot of its own, which is taken off."""
    folded = unicodedata.normalize("NFD", name.casefold()).replace("i\u0307", "i")
    return unicodedata.normalize("NFKC", folded.casefold())
