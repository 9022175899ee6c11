"""When two texts count as the same, for every part of the factory: splits, duplicates, contradictions. Pure."""

from __future__ import annotations

import re
import unicodedata


def normalised(text: str) -> str:
    """Return a text without what does not count: case, kinds and runs of white space, compatibility forms, a last stop.

    A text that is nothing but full stops stays as it is.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(r"[\s.!?…]+$", "", plain) or plain
