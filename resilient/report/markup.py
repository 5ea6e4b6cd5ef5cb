"""HTML from Python, one function an element. Whatever is text is escaped here and nowhere else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# What no HTML page may hold, even escaped: control characters, and the halves of surrogate pairs, which UTF-8 cannot encode. Characters
# that turn the reading direction go as well: a name must not be able to rearrange the line that it stands in.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]")
_LONGEST = 300  # characters of one piece of text from outside


class Safe(str):
    """HTML that needs no escaping any more."""

    __slots__ = ()


def text(value: object, longest: int = _LONGEST) -> Safe:
    """The value as text, escaped, cut to `longest` characters; what is already `Safe` stays as it is."""
    if isinstance(value, Safe):
        return value
    plain = _UNFIT.sub("\ufffd", str(value))
    return Safe(html.escape(plain if len(plain) <= longest else f"{plain[: longest - 1]}…"))


def joined(parts: Iterable[object], between: str = "") -> Safe:
    """All parts one after the other."""
    return Safe(between.join(text(part) for part in parts))


def element(name: str, *content: object, **attributes: object) -> Safe:
    """`<name attributes>content</name>`. `class_` is the attribute class, `_` in other names is `-`; None leaves an attribute out."""
    given = "".join(f' {_attribute(key)}="{text(value)}"' for key, value in attributes.items() if value is not None)
    return Safe(f"<{name}{given}>{joined(content)}</{name}>")


def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def table(
    columns: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    left: Iterable[int] = (0,),
    wrap: int | None = None,
    close: bool = False,
) -> Safe:
    """A table in a box of its own that scrolls sideways where the page is too narrow.

    Columns in `left` hold words, the others numbers; `wrap`: the one whose text may take several lines. `close`: as wide as it needs to
    be, so that the eye keeps the row.
    """
    words = set(left)
    classes = ["wrap" if index == wrap else None if index in words else "n" for index in range(len(columns))]
    head = joined(element("th", column, scope="col", class_=kind) for column, kind in zip(columns, classes, strict=True))
    body = joined(element("tr", *(element("td", c, class_=k) for c, k in zip(row, classes, strict=True))) for row in rows)
    parts = (element("caption", caption), element("thead", element("tr", head)), element("tbody", body))
    inner = element("table", *parts, class_="close" if close else None)
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def folded(summary: object, *content: object) -> Safe:
    """What most readers do not need, behind one line; open in print."""
    return element("details", element("summary", summary), *content)
