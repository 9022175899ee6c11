"""Reads a file of rows: JSONL, one JSON object a line, or CSV with a header. docs/data-formats.md shows the formats.

A message names the file and the line. Unknown keys and columns are ignored, so data can have columns of its own.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convert.data import probability_sampling
from convert.data.data_row import LABEL_SOURCES, LABELED_BY_CHARS_MAX, ChatMessage, DataRow, RowAnswer, Shares, TextSpan
from convert.pipeline.recipe import DataFormat
from edge_agent.durable.atomic_files import is_file
from edge_agent.errors import FileMissing, InvalidRequest
from edge_agent.formats import strict_json

LINE_BYTES_MAX = 1024 * 1024
SUM_TOLERANCE = 1e-3
"""Largest difference of the sum of a distribution from 1; it is then scaled to 1."""
SEE = "docs/data-formats.md shows the formats."
_CORRECT = f"Correct that row. {SEE}"
_FORMAT_KEYS: dict[str, DataFormat] = {
    "messages": "messages",
    "prompt": "prompt-completion",
    "spans": "text-spans",
    "answers": "text-answers",
}
_OTHER_FORMATS = {
    b"[": "one JSON array",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a workbook or a zip archive",
    b"\x1f\x8b": "a gzip archive",
    codecs.BOM_UTF16_LE: "text in UTF-16",
    codecs.BOM_UTF16_BE: "text in UTF-16",
}
"""The first bytes of other formats that people name instead of JSONL."""
_FLAG_KEYS = ("synthetic", "composed", "consented")
_TEXT_ONLY: tuple[DataFormat, ...] = ("text-label", "text-spans", "text-answers")


def read_rows(
    path: Path,
    format: DataFormat,  # noqa: A002 - the key's name
    *,
    text_only: bool = False,
    questions: Sequence[str] = (),
) -> list[DataRow]:
    """Read a file.

    Args:
        path: ends in .csv, or is JSONL.
        format: of its rows.
        text_only: read only the text of a row, in formats with a key `text`.
        questions: text-answers as CSV: the names of the columns that hold answers.

    Raises:
        FileMissing: it is not there.
        InvalidRequest: a line is not a row of that format, or there is no line; the message names file and line.
    """
    require_file(path, "Correct the path under 'data' in the recipe.")
    answer_columns = () if text_only else tuple(questions)
    rows = [_data_row(line, format, text_only, f"{path}:{number}") for number, line in _lines(path, answer_columns)]
    if not rows:
        raise InvalidRequest(f"{path} has no rows", remedy="Add examples, one to a line.")
    return with_families(rows)


def with_families(rows: list[DataRow]) -> list[DataRow]:
    """Give each text one family: all rows of a text get it, and families with a text in common become one, with the
    first of their names.
    """
    if not any(row.family for row in rows):
        return rows
    names: dict[str, str] = {}

    def root(name: str) -> str:
        while names.setdefault(name, name) != name:
            names[name] = names[names[name]]
            name = names[name]
        return name

    keyed = [(row, row.key) for row in rows]
    family_of: dict[str, str] = {}
    for row, key in keyed:
        if row.family:
            earlier, later = sorted((root(row.family), root(family_of.setdefault(key, row.family))))
            names[later] = earlier
    return [
        replace(row, family=root(family_of[key]), own_family=row.family) if key in family_of else row
        for row, key in keyed
    ]


def format_of(path: Path) -> DataFormat:
    """Detect the format of a JSONL file by the keys of its first row. Raises FileMissing, InvalidRequest."""
    require_file(path, "Name a file of rows: docs/data-formats.md.")
    first = next((plain for _, plain in _lines(path, ())), {})
    return next((format_ for key, format_ in _FORMAT_KEYS.items() if key in first), "text-label")


def require_file(path: Path, remedy: str) -> None:
    """Raise FileMissing if there is no file of rows at a path: nothing, or a folder or pipe."""
    if not is_file(path):
        raise FileMissing(f"{path} {'is not a file' if path.exists() else 'does not exist'}", remedy=remedy)


# --- lines --------------------------------------------------------------------------------------------------------


def _lines(path: Path, questions: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    return _csv_lines(path, questions) if path.suffix.lower() == ".csv" else _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            place, remedy = f"{path}:{number}", _other_format(raw, number)
            if len(raw) > LINE_BYTES_MAX:
                message = f"{place} has more than {LINE_BYTES_MAX} bytes"
                raise InvalidRequest(message, remedy=remedy or "Shorten that row.")
            raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw  # Windows writes a byte order mark
            if not raw.strip():
                continue
            try:
                plain = strict_json.decode(raw)
                if b"\\u" in raw:  # refuse half a surrogate pair, as in a text that was cut inside an emoji
                    strict_json.encode(plain)
            except ValueError as error:  # ValueError: also for bytes that are not UTF-8
                raise InvalidRequest(f"{place} is not JSON: {error}", remedy=remedy or "Correct that line.") from None
            if not isinstance(plain, dict):
                raise InvalidRequest(f"{place} must be a JSON object", remedy=remedy or SEE)
            yield number, _without_nulls(plain) or {}


def _without_nulls(plain: dict[str, Any], levels: int = 3) -> dict[str, Any] | None:
    """Return an object of a row without the keys that are null; None if no others are left.

    Programs that work on tables write every column into every row, and every probability into every distribution.
    """
    inner = (
        (key, _without_nulls(value, levels - 1) if levels > 1 and isinstance(value, dict) else value)
        for key, value in plain.items()
    )
    present = {key: value for key, value in inner if value is not None}
    return present if present or not plain else None


def _other_format(raw: bytes, number: int) -> str:
    """Return a remedy if the first line of a file begins like a file of another format; empty = it does not."""
    kind = next((kind for begin, kind in _OTHER_FORMATS.items() if number == 1 and raw.startswith(begin)), "")
    return f"Save it as JSONL, one object a line, or as CSV: the file seems to be {kind}. {SEE}" if kind else ""


def _csv_lines(path: Path, questions: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a CSV file as JSONL would have them; an empty cell is an absent key."""
    csv.field_size_limit(LINE_BYTES_MAX)  # of the process; Python's own is 131,072 characters
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # Excel writes a byte order mark
            cells = csv.reader(file, strict=True)
            header = next(cells, [])
            _check_header(path, header, questions)
            begin = cells.line_num
            for row in cells:
                number, begin = begin + 1, cells.line_num
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    message = f"{path}:{number} has {len(row)} cells, and the header has {len(header)}"
                    raise InvalidRequest(message, remedy='Put a text with a comma or a line break between "quotes".')
                values = {name: cell for name, cell in zip(header, row, strict=True) if name.strip() and cell.strip()}
                yield number, _typed_cells(values, questions, f"{path}:{number}")
    except (csv.Error, UnicodeDecodeError) as error:
        if "field limit" in str(error):
            message = f"{path} has a cell of more than {LINE_BYTES_MAX} characters"
            raise InvalidRequest(message, remedy='Shorten it, or write the second of its "quotes".') from None
        message = f"{path} is not CSV in UTF-8: {str(error)[:200]}"
        raise InvalidRequest(message, remedy="Save it as CSV, UTF-8, separated by commas.") from None


def _check_header(path: Path, header: Sequence[str], questions: Sequence[str]) -> None:
    """Raise InvalidRequest for a header without the columns that are needed, or with a name twice."""
    counts = Counter(filter(str.strip, header))  # Excel also saves empty columns
    if counts and max(counts.values()) > 1:
        repeated = max(counts, key=counts.__getitem__)
        raise InvalidRequest(f"{path}: the header has the column {repeated!r} twice", remedy="Rename one of them.")
    missing = next((name for name in ("text", *questions) if name not in header), None)
    if missing is None:
        return
    columns = ", ".join(map(repr, header))[:300]
    close_matches = difflib.get_close_matches(missing, header, n=1)
    hint = f"Rename the column {close_matches[0]!r}. " if close_matches else ""
    if len(header) == 1 and (separator := re.search(r"[;\t|]", header[0])):
        hint = f"The cells seem to be separated by {separator[0]!r}: save the file with commas. "
    remedy = f"{hint}There must be a column 'text', and 'label' or one for each question. {SEE}"
    raise InvalidRequest(f"{path}: the header lacks the column {missing!r}; it has {columns or 'none'}", remedy=remedy)


def _typed_cells(cells: Mapping[str, str], questions: Sequence[str], place: str) -> dict[str, Any]:
    """Return the cells of a CSV row with the types that JSON has."""
    plain: dict[str, Any] = dict(cells)
    for key in filter(plain.__contains__, _FLAG_KEYS):
        plain[key] = {"true": True, "false": False}.get(cells[key].strip().lower(), cells[key])
    if "sampling_probability" in plain:
        with contextlib.suppress(ValueError):  # `probability_of` names the row
            plain["sampling_probability"] = float(cells["sampling_probability"])
    if questions:
        plain["answers"] = {name: _cell(cells[name], place, name) for name in questions if name in cells}
    if cells.get("label", "").lstrip().startswith("{"):
        plain["label"] = _cell(cells["label"], place, "label")
    return plain


def _cell(cell: str, place: str, name: str) -> Any:
    """Return a label, or the distribution that a cell holds as a JSON object."""
    if not cell.lstrip().startswith("{"):
        return cell.strip()
    try:
        return strict_json.decode(cell)
    except ValueError as error:
        raise InvalidRequest(f"{place}: the distribution in {name!r} is not JSON: {error}", remedy=_CORRECT) from None


# --- lines to rows ------------------------------------------------------------------------------------------------


def _data_row(plain: dict[str, Any], format: DataFormat, text_only: bool, place: str) -> DataRow:  # noqa: A002 - the key's name
    flags = {key: _flag(plain, key, place) for key in _FLAG_KEYS}
    synthetic = flags.pop("synthetic")
    record = {key: plain[key] for key in ("site", "prediction_id") if isinstance(plain.get(key), str)}
    attributes = {key: plain[key] for key in ("model", "review_stream") if isinstance(plain.get(key), str)}
    attributes["family"] = _family(plain, place)
    attributes["sampling_probability"] = probability_sampling.probability_of(plain, place)
    origin = {**_origin(plain, place), **flags, **record, **attributes, "place": place}
    if text_only and format in _TEXT_ONLY:
        return replace(DataRow(_text(plain, "text", place), synthetic=synthetic), **origin)
    return replace(_READERS[format](plain, place, synthetic), **origin)


def _flag(plain: dict[str, Any], key: str, place: str) -> bool:
    value = plain.get(key, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{place}: '{key}' must be true or false", remedy=SEE)
    return value


def _family(plain: dict[str, Any], place: str) -> str:
    """Read the family; a number is taken as a name."""
    value = plain.get("family")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidRequest(f"{place}: 'family' must be text or a number", remedy=_CORRECT)
    return str(value)


def _origin(plain: dict[str, Any], place: str) -> dict[str, Any]:
    """Read the source of a label; without these keys it is `imported`."""
    source, labeler = plain.get("label_source", "imported"), plain.get("labeled_by", "")
    if source not in LABEL_SOURCES:
        message = f"{place}: 'label_source' must be one of {', '.join(LABEL_SOURCES)}"
        raise InvalidRequest(message, remedy=_CORRECT)
    if not isinstance(labeler, str) or len(labeler) > LABELED_BY_CHARS_MAX:
        message = f"{place}: 'labeled_by' must be text of at most {LABELED_BY_CHARS_MAX} characters"
        raise InvalidRequest(message, remedy=_CORRECT)
    return {"label_source": source, "labeled_by": labeler}


def _text(plain: dict[str, Any], key: str, place: str) -> str:
    value = plain.get(key)
    if not isinstance(value, str) or not value.strip():
        problem = f"lacks '{key}'" if key not in plain else f"'{key}' must be text that is not empty"
        raise InvalidRequest(f"{place}: {problem}", remedy=_CORRECT)
    return value


def _text_label(plain: dict[str, Any], place: str, synthetic: bool) -> DataRow:
    text = _text(plain, "text", place)
    if isinstance(plain.get("label"), dict):
        label, shares = distribution(plain["label"], f"{place}: 'label'")
        return DataRow(text, label=label, shares=shares, synthetic=synthetic)
    return DataRow(text, label=_text(plain, "label", place), synthetic=synthetic)


def _text_answers(plain: dict[str, Any], place: str, synthetic: bool) -> DataRow:
    text, listed = _text(plain, "text", place), plain.get("answers", {})
    if not isinstance(listed, dict):
        message = f"{place}: 'answers' must be an object with an answer for each question that the row answers"
        raise InvalidRequest(message, remedy=SEE)
    answers = tuple(_answer(name, value, place) for name, value in listed.items() if value not in (None, ""))
    return DataRow(text, answers=answers, synthetic=synthetic)


def _answer(question: str, value: Any, place: str) -> RowAnswer:
    if isinstance(value, dict):
        return RowAnswer(question, *distribution(value, f"{place}: the answer to '{question}'"))
    if not isinstance(value, str) or not value.strip():
        message = f"{place}: the answer to '{question}' must be text, or an object with the probability of each option"
        raise InvalidRequest(message, remedy=f'Write a level or a number as text, such as "2". {SEE}')
    return RowAnswer(question, value)


def distribution(plain: Mapping[str, Any], what: str) -> tuple[str, Shares]:
    """Return the likeliest output of a distribution, and the distribution, scaled to a sum of 1.

    Raises InvalidRequest, beginning with `what`, unless the probabilities are finite, 0 or more, and their sum differs
    from 1 by at most SUM_TOLERANCE.
    """
    for output, value in plain.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            message = f"{what}: the probability of '{output}' must be a number of 0 or more"
            raise InvalidRequest(message, remedy=_CORRECT)
    total = math.fsum(plain.values())
    if not abs(total - 1) <= SUM_TOLERANCE:
        message = f"{what}: the probabilities have the sum {total:.4g}, which must be 1 (± {SUM_TOLERANCE:g})"
        raise InvalidRequest(message, remedy=f"Correct that row, or leave the answer out. {SEE}")
    shares = tuple((output, value / total) for output, value in plain.items())
    return max(shares, key=lambda share: share[1])[0], shares


def _prompt_completion(plain: dict[str, Any], place: str, synthetic: bool) -> DataRow:
    prompt, completion = _text(plain, "prompt", place), _text(plain, "completion", place)
    return DataRow(prompt, completion=completion, synthetic=synthetic)


def _conversation(plain: dict[str, Any], place: str, synthetic: bool) -> DataRow:
    turns = plain.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InvalidRequest(f"{place}: 'messages' must be a list of objects with 'role' and 'content'", remedy=SEE)
    messages = tuple(ChatMessage(_text(turn, "role", place), _text(turn, "content", place)) for turn in turns)
    if [turn.role for turn in messages[-2:]] != ["user", "assistant"]:
        raise InvalidRequest(f"{place}: 'messages' must end with a user's turn and the assistant's", remedy=SEE)
    return DataRow(messages[-2].content, completion=messages[-1].content, messages=messages, synthetic=synthetic)


def _text_spans(plain: dict[str, Any], place: str, synthetic: bool) -> DataRow:
    text, listed = _text(plain, "text", place), plain.get("spans")
    if not isinstance(listed, list) or not all(isinstance(span, dict) for span in listed):
        raise InvalidRequest(f"{place}: 'spans' must be a list of objects with 'start', 'end' and 'label'", remedy=SEE)
    spans = sorted((_span(span, len(text), place) for span in listed), key=lambda span: span.start)
    for before, after in itertools.pairwise(spans):
        if after.start < before.end:
            raise InvalidRequest(f"{place}: spans {before} and {after} overlap", remedy="Correct that row.")
    return DataRow(text, spans=tuple(spans), synthetic=synthetic)


def _span(plain: dict[str, Any], length: int, place: str) -> TextSpan:
    start, end = plain.get("start"), plain.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        message = f"{place}: a span must have 0 <= start < end <= {length}, the text's length in characters"
        raise InvalidRequest(message, remedy="Correct that row.")
    return TextSpan(start, end, _text(plain, "label", place))


_READERS: dict[DataFormat, Callable[[dict[str, Any], str, bool], DataRow]] = {
    "text-label": _text_label,
    "text-answers": _text_answers,
    "prompt-completion": _prompt_completion,
    "messages": _conversation,
    "text-spans": _text_spans,
}
