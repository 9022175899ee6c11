"""Normalises texts: two texts with the same result count as the same in splits and among duplicates. Pure."""

from __future__ import annotations

import re
import unicodedata


def normalised(text: str) -> str:
    """Return a text in lower case, with single spaces, without compatibility forms and without final punctuation.

    A text that is nothing but full stops stays as it is.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(r"[\s.!?…]+$", "", plain) or plain
