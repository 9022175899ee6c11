"""Runs the learning loop once with real processes: from a correction at a site to a threshold that keeps its guarantee.

    scripts/learning-loop [--work FOLDER] [--calls 2400] [--json]

A site begins without a model: a large one answers, here a scripted oracle that errs in 8% of the texts. A quarter of
all answers is drawn at random for people (`review_share: 0.25`). A reviewer judges the audit, and corrects one answer
in the console. The site seals what it kept; the central team collects it, and writes training data: what people did
not label trains at best, and only the audit calibrates and tests. A linear head on all-MiniLM-L6-v2 is fitted to the
training rows, and its threshold is proved on the calibration rows. At last the promise is held against messages that
nobody has sent before. Every step prints what it did, and stops the walk where something is not as it must be.

The messages are those of examples/pos-intent. Nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import yaml
from scipy import stats

from benchmarks.bars import Bar
from convert.calibrate.calibrate_stage import calibrate
from convert.calibrate.threshold import Risk
from convert.data.data_row import DataRow
from convert.data.row_files import equally_likely, read_for
from convert.evaluate.serving import open_bundle, predict
from convert.package.bundle_assembly import AssembleRequest, assemble
from edge_agent.client import CallFailed, Classification, ReviewAudit, ReviewClient
from edge_agent.formats.calibration import Threshold
from edge_agent.formats.manifest import Role
from edge_agent.formats.signed_document import public_key_hex
from tests.support.escalating_site import TASK, EscalatingSite
from tests.support.eventually import eventually_sync
from tests.support.examples import CENTRAL_KEY, RECIPIENT
from tests.support.large_model import LargeModel
from tests.support.segments import CentralTeam
from tests.support.web_console import RunningConsole

EXAMPLE = Path(__file__).parent.parent / "examples" / "pos-intent"
SITE = "shop-1"
CALLS, CALLS_AT_ONCE = 2400, 30
REVIEW_SHARE = 0.25
ERRING = 0.08
RISK = Risk(0.15, 0.10)
SHARES = {"train": 0.6, "calibration": 0.3, "test": 0.1}
CARD = "4111 1111 1111 1111"
CORRECTED = f"please put the money back on my card {CARD}"
"""What is corrected in the console; its right label is `refund`."""
SURPRISE = 0.001
"""A promise counts as broken where so many errors would be that improbable if it were kept."""


@dataclass(frozen=True)
class TrainingData:
    """The training data that a site's answers have become."""

    rows: dict[str, list[dict[str, Any]]]
    """By split."""
    sheet: dict[str, Any]
    """Its data sheet, dataset.json."""
    corrected: dict[str, Any]
    """The row that the correction in the console has become."""


@dataclass(frozen=True)
class BundleResults:
    """What came of the bundle that was made of it."""

    gathered: TrainingData
    sampling: dict[str, Any]
    """How the calibration rows were drawn."""
    threshold: float | None
    """None = none was proved."""
    sure: int = 0
    """Of the messages that nobody has sent before."""
    wrong: int = 0
    """Of these."""
    promise_holds: bool = True


class CheckFailed(Exception):
    """Something is not as it must be."""


def walk(folder: Path, calls: int = CALLS) -> BundleResults:
    """Run the loop in an empty folder. Raises CheckFailed."""
    return prove(folder, gather(folder, calls))


def gather(folder: Path, calls: int) -> TrainingData:
    """Walk from the calls of devices to the training data, in an empty folder. Raises CheckFailed."""
    messages = _messages("train")[:calls]
    with LargeModel(_oracle(messages)) as large, _site(folder, large) as site:
        ids = _ask(site, messages)
        _correct_in_the_console(site, ids)
        _review_the_audit(site, messages)
        store = _carry(site, folder)
    rows, sheet = _training_data(folder, store)
    return TrainingData(rows, sheet, _checked(rows))


# --- at the site ------------------------------------------------------------------------------------------------------


def _ask(site: EscalatingSite, messages: Sequence[DataRow]) -> list[str]:
    """Let a device ask; return the ids of the message with a card number, which comes until the audit has drawn it."""
    labels = sorted({row.label for row in messages})
    task = {"name": TASK, "kind": "classify", "labels": labels, "prompt": {"chat": True, "system": "Sort messages."}}
    definition = site.folder / "task.yaml"
    definition.write_text(yaml.safe_dump({"version": "1.0.0", "runtime": "upstream", "task": task}))
    site.admin.install(str(assemble(AssembleRequest(definition, {}, site.folder / "task")).path))
    site.start_uplink()
    answered: Counter[bool] = Counter()
    for start in range(0, len(messages), CALLS_AT_ONCE):
        texts = [row.text for row in messages[start : start + CALLS_AT_ONCE]]
        answers = site.client.classify(TASK, texts)
        _must(all(isinstance(each, Classification) for each in answers), "every call is answered, or explains why not")
        answered.update(bool(each.label) for each in answers if isinstance(each, Classification))
    ids: list[str] = []
    with _reviewer(site) as reviewer:
        while not ids or reviewer.prediction(ids[-1]).review_stream != "AUDIT":
            (answer,) = site.client.classify(TASK, [CORRECTED])
            if isinstance(answer, Classification):
                ids.append(answer.prediction_id)
                eventually_sync(partial(_is_kept, reviewer, ids[-1]))
    audit = _audit(site)
    _say(f"of {answered.total()} calls the large model answered {answered[True]}; the others came while it was offline")
    _say(f"a message with a card number was sent until the audit drew it, {len(ids)} times")
    _say(f"{audit.drawn} answers were drawn for people")
    return ids


def _correct_in_the_console(site: EscalatingSite, ids: Sequence[str]) -> None:
    """Correct one answer as the console's page does, by its form."""
    with RunningConsole(site.serve) as console:
        console.sign_in()
        console.remember("edge_agent_reviewer=anna")
        shown = console.get(f"/review/again?id={ids[-1]}").text
        _must("random audit" in shown, "the console says that the answer was drawn at random")
        _must(CARD not in shown, "the card number was redacted")
        form = {"prediction_id": ids[-1], "label": "refund", "answer": ""}
        _must(console.post("/review/judge", form).status == 200, "the console takes the correction")
    _say("its answer was corrected in the console, to 'refund'")


def _review_the_audit(site: EscalatingSite, messages: Sequence[DataRow]) -> None:
    """Let a reviewer with the right labels work through the audit only."""
    truth = {row.text: row.label for row in messages}
    with _reviewer(site) as reviewer:
        for shown in reviewer.queue(TASK, stream="audit"):
            right = truth.get(shown.input, "refund")
            if shown.output == right:
                reviewer.accept(shown.prediction_id, reviewer="ben")
            else:
                reviewer.correct(shown.prediction_id, right, reviewer="ben")
    audit = _audit(site)
    _must(audit.drawn == audit.reviewed and not audit.lost, "the whole audit is reviewed")
    _say(f"the reviewer judged {audit.reviewed} answers, the whole audit")


def _carry(site: EscalatingSite, folder: Path) -> Path:
    """Seal the stored examples, and copy them to a USB drive."""
    store = folder / "drive"
    shutil.copytree(site.admin.seal_examples().outbox_path, store / f"site={SITE}")
    return store


# --- at the central team ---------------------------------------------------------------------------------------------


def _training_data(folder: Path, store: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Collect, and write training data in which the large model may teach."""
    central = CentralTeam(folder, now=time.time)
    central.collect(store)
    _dataset(central.out, folder / "data")
    rows = {split: _lines(folder / "data" / f"{split}.jsonl") for split in SHARES}
    sheet: dict[str, Any] = json.loads((folder / "data" / "dataset.json").read_text("utf-8"))
    return rows, sheet


def _dataset(collected: Path, out: Path) -> None:
    """Run the command that the central team runs."""
    shares = ",".join(f"{split}={share}" for split, share in SHARES.items())
    command = ["dataset", str(collected), "--task", TASK, "--format", "text-label", "--answers", "opinions"]
    command += ["--shares", shares, "--no-label-errors", "--out", str(out)]
    _say(f"$ edge-convert {shlex.join(command)}")
    ran = subprocess.run([sys.executable, "-m", "convert.cli", *command], capture_output=True, text=True, check=False)  # noqa: S603
    _say("".join(f"    {line}\n" for line in (ran.stdout + ran.stderr).splitlines()).rstrip())
    _must(ran.returncode == 0, "the command makes training data")


def _checked(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the row of the correction. Only people's labels of known probability may be measured on."""
    measured = [*rows["calibration"], *rows["test"]]
    drawn = {(row.get("review_stream"), row.get("sampling_probability")) for row in measured}
    _must(drawn == {("audit", REVIEW_SHARE)}, "calibration and test have only rows of the audit")
    people = {row["label_source"] for row in measured} <= {"reviewed", "corrected"}
    _must(people, "calibration and test have only labels of people")
    taught = [row for row in rows["train"] if row.get("review_stream") != "audit"]
    _must(bool(taught), "what only the large model labelled trains")
    found = [row for row in measured if row["label"] == "refund" and "back on my card" in row["text"]]
    _must(len(found) == 1, "the correction in the console is a row, once")
    return found[0]


def prove(folder: Path, gathered: TrainingData) -> BundleResults:
    """Fit a head, prove its threshold, and check the guarantee on messages that were not sent."""
    trainer = _trainer()
    bundle = _bundle(folder, trainer, gathered.rows["train"])
    sample = equally_likely(read_for(folder / "data" / "calibration.jsonl", "classify"))
    found = calibrate(open_bundle(bundle), sample.rows, RISK)
    confidence, report = found.confidence, found.report
    _say(report["verdict"])
    if not isinstance(confidence, Threshold):
        return BundleResults(gathered, sample.plain(), None)
    final = _assembled(folder, trainer, {"confidence": confidence.model_dump(mode="json")}, "final")
    unseen = [*_messages("calibration"), *_messages("test"), *_messages("afterwards")]
    said = predict(final, [row.text for row in unseen])
    sure = [row.label == each.answer for row, each in zip(unseen, said, strict=True)
            if each.confidence >= confidence.threshold]  # fmt: skip
    wrong = len(sure) - sum(sure)
    holds = bool(stats.binom.sf(wrong - 1, len(sure), RISK.target) > SURPRISE)
    share = f"{100 * wrong / max(1, len(sure)):.1f}%; promised are {100 * RISK.target:g}% at most"
    _say(f"of {len(unseen)} new messages {len(sure)} were answered confidently, {wrong} of them wrongly ({share})")
    return BundleResults(gathered, sample.plain(), confidence.threshold, len(sure), wrong, holds)


def _bundle(folder: Path, trainer: ModuleType, rows: Sequence[dict[str, Any]]) -> Path:
    head = trainer.head
    encoder = head.checkpoint_of(trainer.PACKAGE)
    truth = np.array([trainer.LABELS.index(row["label"]) for row in rows])
    weight, bias = trainer.fitted(trainer.vectors(encoder, [row["text"] for row in rows]), truth)
    trained = {head.WEIGHT: weight.astype(np.float32), head.BIAS: bias.astype(np.float32)}
    head.save(folder / "head.safetensors", trained, encoder, {"trained_on": "data/train.jsonl"})
    head.main(str(folder / "head.safetensors"), trainer.PACKAGE, str(folder / "model"))
    return _assembled(folder, trainer, {}, "first")


def _assembled(folder: Path, trainer: ModuleType, sections: dict[str, Any], name: str) -> Path:
    (folder / "head").mkdir(exist_ok=True)
    (folder / "head" / "task.yaml").write_text(yaml.safe_dump({**trainer.TASK, **sections}), encoding="utf-8")
    files: dict[Role, Path] = {
        "weights": folder / "model" / "model.onnx",
        "tokenizer": folder / "model" / trainer.head.TOKENIZER_NAME,
    }
    return assemble(AssembleRequest(folder / "head", files, folder / name)).path


# --- the rest ---------------------------------------------------------------------------------------------------------


def _site(folder: Path, large: LargeModel) -> EscalatingSite:
    """Return a site whose answers may leave sealed, and a share of which people review."""
    sections = {
        "examples": {
            "collect": {TASK: "upstream"},
            "review_shares": {TASK: REVIEW_SHARE},
            "routine_share": 1.0,
            "commit_seconds": 0.02,
            "disk_reserve_bytes": 0,
        },
        "site": {"id": SITE, "recipients": [RECIPIENT], "receipt_keys": [public_key_hex(CENTRAL_KEY)]},
    }
    return EscalatingSite(folder / "site", large, sections, calls_max=2 * CALLS_AT_ONCE)


def _oracle(messages: Sequence[DataRow]) -> Callable[[str], str]:
    """Return a large model with the right labels, and errors in a fixed set of texts."""
    truth = {row.text: row.label for row in messages}
    labels = sorted(set(truth.values()))

    def answer(text: str) -> str:
        right = truth.get(text, "other")
        # Not the hash by which the messages are ordered: the first of them would all be wrong.
        drawn = int.from_bytes(hashlib.sha256(f"oracle {text}".encode()).digest()[:4], "big") / 2**32
        return labels[(labels.index(right) + 1) % len(labels)] if drawn < ERRING else right

    return answer


def _messages(split: str) -> list[DataRow]:
    """Return the messages of a split that redaction leaves as they are, in an order of their own."""
    rows = [
        row for row in read_for(EXAMPLE / "data" / f"{split}.jsonl", "classify") if not re.search(r"\d{4}", row.text)
    ]
    return sorted(rows, key=lambda row: hashlib.sha256(row.text.encode()).digest())


def _trainer() -> ModuleType:
    """Return examples/pos-intent/head/train.py."""
    spec = importlib.util.spec_from_file_location("pos_intent_head", EXAMPLE / "head" / "train.py")
    assert spec is not None, "the example is in the repository"
    assert spec.loader is not None, "it is a file of Python"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _reviewer(site: EscalatingSite) -> ReviewClient:
    return ReviewClient(f"unix:{site.serve.run_dir}/review.sock")


def _audit(site: EscalatingSite) -> ReviewAudit:
    examples = site.admin.status().examples
    return examples.audit if examples else ReviewAudit()


def _is_kept(reviewer: ReviewClient, prediction_id: str) -> bool:
    try:
        return reviewer.prediction(prediction_id).prediction_id == prediction_id
    except CallFailed:
        return False


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _must(holds: bool, said: str) -> None:
    if not holds:
        raise CheckFailed(f"it is not so that {said}")


def _say(said: str) -> None:
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()  # in a log, too, each step shows when it is done


def main() -> None:
    """Read the arguments, and run the loop."""
    words = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser("scripts/learning-loop", description=words[0], epilog="\n\n".join(words[2:]))
    parser.add_argument("--work", type=Path, help="an empty folder to leave everything in")
    parser.add_argument("--calls", type=int, default=CALLS, help=f"calls of devices; {CALLS} unless said otherwise")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, steps to standard error")
    given = parser.parse_args()
    # So that a walk that is stopped takes its processes with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with (
            contextlib.redirect_stdout(sys.stderr if given.json else sys.stdout),
            tempfile.TemporaryDirectory() as work,
        ):
            walked = walk(given.work or Path(work), given.calls)
            _tell(walked)
    except CheckFailed as broken:
        sys.exit(f"stopped: {broken}")
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(128 + signal.SIGINT)
    found = bars(walked)
    if given.json:
        for bar in found:
            print(json.dumps(bar.plain()))  # noqa: T201 - its output
    sys.exit(not all(bar.ok for bar in found))


def bars(walked: BundleResults) -> list[Bar]:
    """Return the figures: whether a threshold was proved and keeps its guarantee, and its coverage."""
    return [
        Bar("a threshold is proved", float(walked.threshold is not None), 1, "higher"),
        Bar("its promise holds for new messages", float(walked.promise_holds), 1, "higher"),
        # Where none is confident, the promise was not put to the test.
        Bar("confident answers to these", walked.sure, 1, "higher"),
        Bar("wrong among them", walked.wrong, None, "lower"),
    ]


def _tell(walked: BundleResults) -> None:
    _say(f"the row of the correction: {json.dumps(walked.gathered.corrected)}")
    if walked.threshold is None:
        _say("NO THRESHOLD WAS PROVED: every answer escalates, and nothing is promised")
    else:
        _say("the promise holds" if walked.promise_holds else "THE PROMISE IS BROKEN")


if __name__ == "__main__":
    main()
