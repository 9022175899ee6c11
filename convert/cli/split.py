"""`edge-convert split` and `synthesize`: more rows, and rows divided into the splits of a recipe."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from convert.cli import progress_output
from convert.data import row_files, splits
from convert.data.data_row import DataRow
from convert.data.row_lines import read_rows
from convert.data.splits import write_splits
from convert.pipeline import task_file
from convert.pipeline.recipe import RECIPE_NAME
from convert.pipeline.recipe import read as read_recipe
from convert.pipeline.stage import load_module
from edge_agent.cli.terminal import say
from edge_agent.durable.atomic_files import open_private
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

_FILES = ("train", "calibration", "test")


def run(
    rows: Annotated[Path, typer.Argument(metavar="DATA", help="JSONL or CSV: docs/data-formats.md.")],
    task: Annotated[Path, typer.Option(metavar="FILE", help="The task.yaml, or the folder that holds it.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the three splits.")],
    shares: Annotated[
        str, typer.Option(metavar="SPLIT=SHARE,…", help="The share of the rows of each split.")
    ] = "train=0.6,calibration=0.25,test=0.15",
    seed: Annotated[str, typer.Option(metavar="TEXT", help="Seed of the division.")] = "1",
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace existing splits; their rows stay in their split, new ones are dealt."),
    ] = False,
) -> None:
    """Divide one file of labelled texts into the splits of a recipe: train, calibration and test.

    For tasks of kind classify and decide. Rows of one family, with the same text or with nearly the same text stay in
    one split, so that no test text is a variant of a training text. Calibration and test take only labels and texts of
    people and, if the file has sampling probabilities, only rows with one; the other rows are for training. Answers
    that the task does not have are refused, with the row.

    Example: [bold]edge-convert split messages.csv --task front-desk --out front-desk/data[/bold]
    """
    spec = task_file.of(task)
    if not spec.questions_asked:
        message = f"a task of kind {spec.kind} has no labels to divide rows by"
        raise InvalidRequest(message, remedy="Divide the rows yourself; docs/data-formats.md explains the splits.")
    existing = [out / f"{name}.jsonl" for name in _FILES if (out / f"{name}.jsonl").exists()]
    if existing and not force:
        raise InvalidRequest(f"{existing[0]} exists", remedy="Name another --out, or replace it with --force.")
    earlier, unread = _earlier_rows(out)
    all_rows = row_files.read_for_task(rows, spec)
    row_files.check_labels(all_rows, spec)
    divided = splits.divide(all_rows, seed, _shares(shares), earlier)
    write_splits(out, {split: [splits.plain_of(row) for row in members] for split, members in divided.items()})
    for split, members in divided.items():
        say(
            f"{out / split}.jsonl: {counted(len(members), 'row') if members else 'empty, and a recipe needs rows here'}"
        )
    for message in (
        *_training_only_lines(all_rows, sum(map(len, divided.values()))),
        *_moved_lines(divided, earlier),
        *unread,
    ):
        say(message)
    next_step, recipe = "Next: name these files under 'data' in recipe.yaml.", out / RECIPE_NAME
    if recipe.is_file():
        next_step = (
            f"Next: see that 'data' in {recipe} names these files, then run 'edge-convert run {shlex.quote(str(out))}'."
        )
    say(next_step)


def _earlier_rows(out: Path) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Return the keys of the rows that an earlier division has dealt to each split, and which of its files is unread.

    Rows that could only train were not dealt. People label such rows later, above all the difficult ones: if they all
    stayed in training, calibration and test would lack inputs like them.
    """
    rows_of: dict[str, list[DataRow]] = {}
    unread = []
    for name in _FILES:
        path = out / f"{name}.jsonl"
        try:
            rows_of[name] = (
                read_rows(path, "text-label", text_only=True) if path.is_file() and path.stat().st_size else []
            )
        except InvalidRequest as error:
            rows_of[name] = []
            unread.append(
                f"the earlier {path} cannot be read, so its rows were dealt again, and figures of a bundle that learned"
                f" from them can be too good: {error.message}"
            )
    was_dealt = splits.measurable_rows([row for rows in rows_of.values() for row in rows])
    return {name: frozenset(row.key for row in rows if was_dealt(row)) for name, rows in rows_of.items()}, unread


def _moved_lines(divided: Mapping[str, Sequence[DataRow]], earlier: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """Yield how many rows stayed in their earlier split, and how many moved."""
    earlier_keys = frozenset[str]().union(*earlier.values())
    placed = [(split, row.key) for split, rows in divided.items() for row in rows]
    stayed = sum(key in earlier[split] for split, key in placed)
    moved = sum(key in earlier_keys for _, key in placed) - stayed
    if stayed or moved:
        yield (
            f"{counted(stayed, 'row')} left in the earlier split, where a bundle can have learned from them, and"
            f" {len(placed) - stayed - moved} dealt: to divide all of them again, name another --out"
        )
    if moved:
        yield f"{counted(moved, 'row')} moved to the split of a variant, or to training"


def _training_only_lines(rows: Sequence[DataRow], divided: int) -> Iterator[str]:
    """Yield how many rows are for training only, and how many of them are left out."""
    measurable = splits.measurable_rows(rows)
    count = sum(not measurable(row) for row in rows)
    if count:
        yield f"{counted(count, 'row')} for training only: made or labelled by a model, or not drawn at random"
    if left_out := len(rows) - divided:
        yield f"{counted(left_out, 'row')} of these left out: variants of a row in calibration or test"


def _shares(option: str) -> dict[str, float]:
    pairs = re.findall(r"(?:^|,)(train|calibration|test)=(\d*\.?\d+)(?=,|$)", option)
    shares = {name: float(share) for name, share in pairs if float(share)}
    if len(shares) != len(_FILES) or option.count(",") + 1 != len(_FILES):
        remedy = "Write them as train=0.6,calibration=0.25,test=0.15: three shares above 0."
        raise InvalidRequest(f"--shares {option} is not understood", remedy=remedy)
    total = sum(shares.values())
    return {name: shares[name] / total for name in _FILES}


@dataclass
class SynthesizeCommand:
    """Have a large model write more training texts, modelled on the recipe's training rows.

    Sends examples of the training split to that server, and nothing of the calibration and test splits. The rows are
    marked "synthetic": add the file to the training split only.

    Example: [bold]edge-convert synthesize examples/pos-intent --about "What a customer at a till wants." --out
    more.jsonl[/bold], with OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL set.
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    where: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe.yaml, or the directory that holds it.")]
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="JSONL file to write; rows are appended to an existing one.")
    ]
    about: Annotated[str, typer.Option(metavar="TEXT", help="The task in a few sentences, for the model.")]
    model: Annotated[str, typer.Option(metavar="NAME", envvar="OPENAI_MODEL", help="The large model.")]
    base_url: Annotated[str, typer.Option(metavar="URL", envvar="OPENAI_BASE_URL", help="URL of its server.")]
    key: Annotated[str, typer.Option(metavar="KEY", envvar="OPENAI_API_KEY", help="Better given as OPENAI_API_KEY.")]
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="How many rows to write.")] = 200
    tokens_max: Annotated[
        int, typer.Option(min=1, metavar="TOKENS", help="Stop when this many tokens are used, input and output.")
    ] = 200_000
    seed: Annotated[int, typer.Option(min=0, help="Seed for choosing the examples.")] = 1

    def __post_init__(self) -> None:
        """Run the command."""
        synthesis = load_module("convert.data.synthesis")
        endpoint = synthesis.ChatEndpoint(self.base_url, self.key, self.model)
        if self.out.suffix != ".jsonl":
            message = f"--out {self.out}: rows are written as JSONL"
            raise InvalidRequest(message, remedy="Name a file that ends in .jsonl.")
        recipe = read_recipe(self.where)
        has_rows = self.out.is_file() and self.out.stat().st_size > 0  # an attempt that failed leaves an empty file
        existing_rows = read_rows(self.out, recipe.data.format) if has_rows else []
        request = synthesis.SynthesisRequest(
            self.about, self.rows, self.tokens_max, self.seed, tuple(row.text for row in existing_rows)
        )
        rows_written = 0
        with progress_output.bar() as advance, open_private(self.out, "a") as file:
            if existing_rows and not _ends_with_newline(self.out):
                file.write("\n")  # an editor can have left it out
            for result in synthesis.synthesize(recipe, request, self.model, endpoint.ask, advance):
                file.writelines(map(synthesis.line, result.rows[rows_written:]))
                file.flush()  # rows that were paid for are kept, whatever happens next
                rows_written = len(result.rows)
        for line in synthesis.summary(result, request, str(self.out)):
            progress_output.out().print(line)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
