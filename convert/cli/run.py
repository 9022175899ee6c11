"""`edge-convert run` and a command for each stage; without a recipe, `quantize` makes one file, `assemble` a bundle of
files, `calibrate` proves the questions of a finished bundle, and `evaluate` and `compare` measure any bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from convert.cli import progress_output
from convert.data import row_files
from convert.data.data_row import DataRow
from convert.package import bundle_assembly
from convert.pipeline import execution
from convert.pipeline.recipe import RECIPE_NAME, DataFormat, GoldenRule, PrivacySection
from convert.pipeline.recipe import read as read_recipe
from convert.pipeline.stage import load_module
from convert.report import comparison, markdown
from convert.report.markdown import headline
from convert.report.run_summary import TEXT_NAME, duration
from edge_agent.cli.terminal import Terminal, errors, write_exactly
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Role, TaskSpec
from edge_agent.formatting import counted, format_bytes

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe.yaml, or the directory that holds it.")
]
Work = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for the results of stages, instead of 'work' in the recipe.")
]
Again = Annotated[bool, typer.Option("--again", help="Run the last stage even if its inputs have not changed.")]

Auto = Annotated[
    bool,
    typer.Option("--auto", help="Try the default candidates of the runtime, whatever 'quantize.types' in the recipe."),
]

_STAGES = {
    "prepare": "Convert the source to a float checkpoint with its tokenizer.",
    "finetune": "Fine-tune on the training rows.",
    "export": "Export to the runtime's format: GGUF or ONNX.",
    "verify": "Compare the export with the original: logits, tokens, special tokens, chat template.",
    "quantize": "Make the candidates, measure them, and choose the fastest inside the budget.",
    "calibrate": "Fit temperature and threshold of the chosen artefact.",
    "evaluate": "Measure the artefact on the test rows.",
    "assemble": "Assemble the bundle.",
}


def run(where: RecipeArgument, again: Again = False, work: Work = None, auto: Auto = False) -> None:
    """Make a bundle from a recipe: run every stage that is not up to date, then write report.md.

    Ctrl-C stops the run; the same command continues it.

    Example: [bold]edge-convert run examples/retail-categories/recipe.yaml[/bold]
    """
    run_recipe(where, "", again, work, auto=auto)


def stage(name: str) -> Callable[[Path, bool, Path | None], None]:
    """Return the command of one stage."""

    def command(where: RecipeArgument, again: Again = False, work: Work = None) -> None:
        run_recipe(where, name, again, work)

    command.__doc__ = f"{_STAGES[name]}\n\nEarlier stages run first if they are not up to date."
    return command


def run_recipe(where: Path, until: str, again: bool, work: Path | None = None, *, auto: bool = False) -> None:
    """Run a recipe up to a stage, empty = all; show a line for each finished stage, and a bar."""
    recipe = read_recipe(where)
    if auto:
        recipe = recipe.model_copy(update={"quantize": recipe.quantize.model_copy(update={"types": ()})})
    if work is not None:
        recipe = recipe.model_copy(update={"work": str(work.absolute())})
    with progress_output.stages() as display:
        records = execution.run(recipe, until, again=again, display=display)
    for record in records:
        if record.stage == "evaluate":
            progress_output.out().print(" ".join(headline(record.report)))
    took = duration(sum(record.seconds for record in records))
    peak = format_bytes(max(record.memory_peak_bytes for record in records))
    progress_output.out().print(
        f"{counted(len(records), 'stage')} took {took} of work; peak memory {peak}."
        f" The report is {execution.work_folder(recipe) / TEXT_NAME}."
    )


@dataclass
class QuantizeCommand:
    """Quantize a GGUF file; or make and measure the candidates of a recipe, and choose the fastest inside its budget.

    Reports the real bits per weight, and which tensors got another type than requested. A file needs no torch.

    Example: [bold]edge-convert quantize model-f16.gguf --type Q4_0 --out model-q4_0.gguf[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    what: Annotated[Path, typer.Argument(metavar="SOURCE", help="A GGUF file, with --type and --out; or a recipe.")]
    type_: Annotated[str, typer.Option("--type", metavar="TYPE", help="Such as Q8_0, Q4_K_M or Q4_0.")] = ""
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="GGUF file to create.")] = None
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Accept a file that is quantized already; it loses more accuracy.")
    ] = False
    again: Again = False
    work: Work = None
    auto: Auto = False

    def __post_init__(self) -> None:
        """Run the command."""
        if not self.type_ and self.out is None:
            run_recipe(self.what, "quantize", self.again, self.work, auto=self.auto)
            return
        if not self.type_ or self.out is None:
            raise InvalidRequest("one file needs both --type and --out", remedy="Name both, or a recipe and neither.")
        gguf = load_module("convert.quantize.gguf_files")
        result = gguf.quantize(gguf.QuantizeRequest(self.what, self.out, self.type_, requantize=self.requantize))
        contents = result.contents
        tensor_types = ", ".join(f"{count} {name}" for name, count in contents.types.items())
        progress_output.out().print(
            f"Made {self.out}: {result.type}, {decimal(contents.size_bytes)}, {contents.bits_per_weight:.2f} bits per"
            f" weight; tensors: {tensor_types}"
        )
        for line in result.fallbacks:
            progress_output.out().print(f"not as requested: {line}")


Format = Annotated[
    DataFormat | None, typer.Option("--format", help="Format of the rows; by default it is detected from their keys.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the whole report as JSON.")]
Rows = Annotated[Path, typer.Argument(metavar="DATA", help="JSONL or CSV: docs/data-formats.md.")]


def evaluate(
    what: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle directory; or a recipe, without DATA.")],
    rows: Annotated[Path | None, typer.Argument(metavar="DATA", help="JSONL or CSV: docs/data-formats.md.")] = None,
    format_: Format = None,
    as_json: AsJson = False,
    again: Again = False,
    work: Work = None,
) -> None:
    """Measure a bundle on rows through the agent's own engine; or run this stage of a recipe.

    Reports accuracy with its interval, confusions, figures for each label, and times. Texts are sent one at a time.

    Example: [bold]edge-convert evaluate build/pos-intent/assemble/bundle field.jsonl[/bold]
    """
    if rows is None:
        run_recipe(what, "evaluate", again, work)
        return
    evaluate_stage = load_module("convert.evaluate.evaluate_stage")
    bundle = load_module("convert.evaluate.serving").open_bundle(what)
    with progress_output.bar() as advance:
        report, _ = evaluate_stage.evaluate(what, _read_rows(rows, bundle.manifest.task, format_), advance)
    _print_report(markdown.evaluation(bundle.name, report), report, as_json)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A bundle directory.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another bundle directory.")],
    rows: Rows,
    format_: Format = None,
    as_json: AsJson = False,
) -> None:
    """Measure two bundles on the same rows, and report whether the difference is more than chance.

    Example: [bold]edge-convert compare old/bundle new/bundle field.jsonl[/bold]
    """
    evaluate_stage = load_module("convert.evaluate.evaluate_stage")
    task = load_module("convert.evaluate.serving").open_bundle(first).manifest.task
    with progress_output.bar() as advance:
        report = evaluate_stage.compare(first, second, _read_rows(rows, task, format_), advance)
    _print_report(comparison.comparison(report), report, as_json)


def _read_rows(path: Path, task: TaskSpec, format_: DataFormat | None) -> list[DataRow]:
    """Read rows to measure on, and warn of labels that no person gave."""
    rows = row_files.read_for_task(path, task, format_)
    sources = row_files.labelled_by_machine(rows)
    if sources:
        message = f"{sources}: the figures say how far the bundle agrees with it, not how often it is right"
        errors().print(Text.assemble(("warning: ", "yellow"), message))
    return rows


def _print_report(markdown: str, report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_exactly(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        progress_output.show(markdown)


_NO_GOLDEN = (
    "It has no golden cases: a site can load it, but cannot check that the model gives the same answers there."
    " 'edge-convert run' makes bundles with golden cases."
)


@dataclass
class AssembleCommand:
    """Assemble a bundle from a task.yaml and model files: hash them, write the manifest, check it.

    With a recipe instead of a task and no other option: run this stage of the recipe and the stages before it.

    A samples.txt next to the task.yaml, with one input per line, becomes part of the bundle for 'edge-agent demo'.

    Files are hard-linked if the disk allows it. The same input gives the same bytes.

    A site compares a bundle's answers with its golden cases. A recipe records them ('edge-convert run'); from files,
    they come with --golden.

    Example: [bold]edge-convert assemble examples/assistant --weights model.gguf --out build/assistant[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    task: Annotated[Path, typer.Argument(metavar="TASK", help="A task.yaml, or the directory that holds it.")]
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="Directory or .tar file to create.")] = None
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="GGUF or ONNX file; not needed for runtime echo.")
    ] = None
    adapter: Annotated[Path | None, typer.Option(metavar="FILE", help="LoRA adapter as GGUF.")] = None
    tokenizer: Annotated[Path | None, typer.Option(metavar="FILE", help="tokenizer.json, for ONNX.")] = None
    golden: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Golden file: inputs and the answers expected on every site.")
    ] = None
    golden_cases_min: Annotated[
        int, typer.Option(min=0, help="Fewest binding golden cases. With 0, no site can check the bundle's answers.")
    ] = bundle_assembly.BINDING_MIN
    version: Annotated[str, typer.Option(metavar="X.Y.Z", help="Overrides the version in task.yaml.")] = ""
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False
    again: Again = False
    work: Work = None

    def __post_init__(self) -> None:
        """Run the command."""
        if self.out is not None:
            self._assemble_files(self.out)
        elif (self.task / RECIPE_NAME).is_file() or self.task.name == RECIPE_NAME:
            run_recipe(self.task, "assemble", self.again, self.work)
        else:
            remedy = f"Name a folder or a .tar with --out. To run a recipe, name a folder with a {RECIPE_NAME}."
            raise InvalidRequest("--out is missing: the bundle needs a folder or a .tar file", remedy=remedy)

    def _assemble_files(self, out: Path) -> None:
        paths: dict[Role, Path | None] = {
            "weights": self.weights,
            "adapter": self.adapter,
            "tokenizer": self.tokenizer,
            "golden": self.golden,
        }
        files = {role: path for role, path in paths.items() if path is not None}
        request = bundle_assembly.AssembleRequest(
            self.task, files, out, self.version or None, self.force, self.golden_cases_min
        )
        with _hashing_progress() as progress:
            bundle = bundle_assembly.assemble(request, progress)
        manifest = bundle.manifest
        progress_output.out().print(
            f"Made {bundle.path}: {manifest.task.name} {manifest.version}, {manifest.runtime},"
            f" {counted(len(manifest.artifacts), 'file')}, {decimal(manifest.size_bytes)}, digest {bundle.digest[:12]}"
        )
        if not self.golden and manifest.runtime in bundle_assembly.COMPUTED and manifest.task.kind != "generate":
            progress_output.out().print(_NO_GOLDEN)


@contextmanager
def _hashing_progress() -> Iterator[bundle_assembly.Progress]:
    """Yield a callback that draws a progress bar on a terminal and does nothing elsewhere."""
    columns = (TextColumn("hashing {task.description}"), BarColumn(), DownloadColumn())
    console = Terminal(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        ids: dict[str, int] = {}

        def show(name: str, done: int, size: int) -> None:
            if name not in ids:
                ids[name] = bars.add_task(name, total=size)
            bars.update(bars.task_ids[ids[name]], completed=done)

        yield show


TARGET, DELTA, FLOOR = 0.05, 0.1, 0.5


@dataclass
class CalibrateCommand:
    """Prove a threshold for questions of a finished bundle; or run this stage of a recipe.

    Each question that DATA answers gets a temperature and, if enough answers are right, a threshold. The weights stay
    the same, so the new bundle is a small update. Questions without an answer in DATA keep what they have.

    Example: [bold]edge-convert calibrate build/desk reviewed.jsonl --version 1.1.0 --out build/desk-1.1.0[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    what: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A decide bundle; or a recipe, without DATA.")]
    rows: Annotated[Path | None, typer.Argument(metavar="DATA", help="JSONL with reviewed answers by question.")] = None
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="Directory or .tar file to create.")] = None
    version: Annotated[str, typer.Option(metavar="X.Y.Z", help="Version of the new bundle.")] = ""
    questions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML list of questions to add, or to replace by name.")
    ] = None
    target: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Largest share of wrong answers among the confident ones.")
    ] = TARGET
    delta: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="Probability that a threshold violates it; divided among the questions."),
    ] = DELTA
    floor: Annotated[float, typer.Option(min=0.0, max=1.0, help="Smallest confidence of a confident answer.")] = FLOOR
    golden_cases: Annotated[
        GoldenRule,
        typer.Option(
            help="Rows of DATA whose texts may travel in the bundle as golden cases. surrogates: all, made-up values in"
            " place of what the rules of redaction find. composed, consented: rows so marked, as they are."
        ),
    ] = "surrogates"
    redaction_bundle: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A redaction bundle, which finds values in addition to the rules."),
    ] = None
    locale: Annotated[
        str, typer.Option(metavar="LOCALE,…", help="Locales of the made-up values; one is drawn for each row.")
    ] = "en_US"
    golden_cases_min: Annotated[
        int, typer.Option(min=0, help="Fewest binding golden cases, with which a site checks the bundle's answers.")
    ] = bundle_assembly.BINDING_MIN
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False
    again: Again = False
    work: Work = None

    def __post_init__(self) -> None:
        """Run the command."""
        if self.rows is None:
            run_recipe(self.what, "calibrate", self.again, self.work)
            return
        if self.out is None or not self.version:
            missing = "--out" if self.out is None else "--version"
            remedy = "Name a folder or a .tar with --out, and a new --version."
            raise InvalidRequest(f"{missing} is missing", remedy=remedy)
        self._calibrate(self.rows, self.out)

    def _calibrate(self, rows: Path, out: Path) -> None:
        locales = tuple(name.strip() for name in self.locale.split(","))
        calibration = load_module("convert.package.question_calibration")
        request = calibration.QuestionCalibration(
            bundle=load_module("convert.evaluate.serving").open_bundle(self.what),
            rows=rows,
            out=out,
            version=self.version,
            risk=load_module("convert.calibrate.threshold").Risk(self.target, self.delta),
            questions=self.questions,
            settings=load_module("convert.calibrate.calibrate_stage").CalibrationSettings(self.floor),
            privacy=PrivacySection(golden_cases=self.golden_cases, locales=locales),
            redaction_bundle=self.redaction_bundle,
            golden_cases_min=self.golden_cases_min,
            force=self.force,
        )
        with progress_output.bar() as advance:
            bundle, report = calibration.calibrated_bundle(request, advance)
        console = progress_output.out()
        for name, each in report["questions"].items():
            console.print(f"{name}: {each['verdict']}")
        console.print(report["verdict"])
        console.print(report["sampling"]["said"])
        console.print(f"Golden cases: {report['golden']['origin']['sentence']}.")
        new_bytes = sum(each.size_bytes for each in bundle.manifest.artifacts if each.role in ("golden", "report"))
        console.print(
            f"Made {bundle.path}: {bundle.manifest.task.name} {bundle.manifest.version}, digest {bundle.digest[:12]}."
            f" Besides the manifest, {decimal(new_bytes)} differ from {request.bundle.manifest.version}."
        )
