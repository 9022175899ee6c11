"""The fuzzer: every reader of a site over the stored corpus and new cases, and its judge (docs/fuzzing.md)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from benchmarks.fuzz import bars, fuzzed
from edge_agent.errors import EdgeAgentError, ManifestInvalid
from tests.support.fuzz import corpus
from tests.support.fuzz.driver import KINDS, Defect, Report, fuzz, fuzz_together, seed_of_the_day
from tests.support.fuzz.judge import Judge
from tests.support.fuzz.targets import TARGETS, Read, Target

MINUTES = 20
READERS = [name for name, target in TARGETS.items() if target.settle is None and not target.child]
LIBRARIES = [name for name in TARGETS if name not in READERS]


def require_sound(report: Report, folder: Path) -> None:
    """Fail with each defect and the command that runs its case again."""
    assert "" == "\n".join(report.told(folder))
    assert report.executions >= len(corpus.files(report.target)) + TARGETS[report.target].runs


@pytest.mark.slow
def test_readers_read_or_refuse_every_case(tmp_path: Path) -> None:
    """Every case of the corpus, and new ones each day, is read or refused with a reason, within its limits and without
    side effects."""
    for report in fuzz_together([TARGETS[name] for name in READERS], tmp_path, seed_of_the_day()):
        require_sound(report, tmp_path / "found")


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_model_file_crashes_at_most_its_engine(name: str, tmp_path: Path) -> None:
    """A hostile model file can crash at most the child of its engine; the bundle is refused with a reason."""
    require_sound(fuzz(TARGETS[name], tmp_path, seed_of_the_day(), runs=TARGETS[name].runs), tmp_path / "found")


@pytest.mark.release
def test_twenty_minutes_of_fuzzing_find_no_defect() -> None:
    """Twenty minutes of fuzzing over all targets, as in `scripts/bench fuzz`, find no defect."""
    missed = []
    seconds = MINUTES * 60 / sum(target.share for target in TARGETS.values())
    for target in TARGETS.values():
        report = fuzzed(target, seed_of_the_day(), seconds * target.share)
        missed += [bar.line() for bar in bars(target, report) if not bar.ok]
    assert [] == missed


@pytest.mark.parametrize("name", TARGETS)
def test_cases_of_a_target_are_reproducible_by_their_seed(name: str) -> None:
    """The same seed mutates a file in the same way, so that a failure can be repeated; other seeds mutate it
    differently."""
    target = TARGETS[name]
    begin = next(iter(corpus.files(name).values()), b'{"role": "plan", "stolen": true, "stick": true}\n{"signed": {}}')
    once, again = ([target.mutate(Random(seed), begin) for seed in range(20)] for _ in range(2))
    assert once == again
    assert len(set(once)) > 10


def test_the_corpus_is_small_and_every_target_has_one() -> None:
    """The corpus has at most 300 kB, so that it is read in seconds, and a file for every target except the repository,
    whose dates and signatures are generated each time."""
    sizes = [path.stat().st_size for path in corpus.FOLDER.rglob("*") if path.is_file()]
    assert sum(sizes) <= 300_000
    without = {name for name in TARGETS if not corpus.files(name)}
    assert {"repository"} == without
    assert {path.name for path in corpus.FOLDER.iterdir()} <= set(TARGETS)


@pytest.mark.slow
def test_valid_corpus_files_can_be_written_again(tmp_path: Path) -> None:
    """For every target the same valid corpus files can be generated again, so that the corpus follows a format that
    changes."""
    corpus.write_sound(tmp_path)
    kept, written = (
        {str(path.relative_to(folder)) for path in folder.rglob("sound*")} for folder in (corpus.FOLDER, tmp_path)
    )
    assert kept == written


def opens_a_file(_: bytes) -> None:
    os.open("/dev/null", os.O_RDONLY)


JUDGED = threading.Event()


def leaves_a_thread(_: bytes) -> None:
    JUDGED.clear()
    threading.Thread(target=JUDGED.wait, name="left behind", daemon=True).start()


def writes_elsewhere(_: bytes) -> None:
    Path("/dev/zero").write_bytes(b"x")


def raises(error: BaseException) -> Callable[[bytes], object]:
    """Return a reader that raises."""

    def read(_: bytes) -> None:
        raise error

    return read


def unescaped(message: str) -> EdgeAgentError:
    """Return an error whose message did not pass through its constructor."""
    error = ManifestInvalid("")
    error.message = message
    return error


def never_ends(_: bytes) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "kind", "said"),
    [
        (lambda _: None, "", ""),
        (raises(ManifestInvalid("a rule is broken")), "", ""),
        (raises(KeyError("a")), "unexplained", "KeyError"),
        (raises(AssertionError("the same file is another")), "unexplained", "the same file is another"),
        (raises(EdgeAgentError("something")), "unexplained", "the reason INTERNAL is none of the API"),
        (raises(ManifestInvalid("it raised TypeError")), "unexplained", "names an exception"),
        (raises(unescaped("no\nsentence")), "unexplained", "the sentence of MANIFEST_INVALID is none"),
        (raises(ManifestInvalid("a" * 5000)), "unexplained", "has 5000 characters"),
        (raises(MemoryError()), "memory", "the limit is 67 MB"),
        (opens_a_file, "left", "leaves descriptors open"),
        (leaves_a_thread, "left", "left behind"),
        (writes_elsewhere, "left", "touched open '/dev/zero'"),
        (never_ends, "hang", "not read within 0.05 s of the processor"),
    ],
)
def test_judge_finds_defects(read: Read, kind: str, said: str, tmp_path: Path) -> None:
    """The judge counts as a defect every case that is neither read nor refused with a reason and a message, within its
    limits and without side effects."""
    judge = Judge(Target("judged", lambda _, raw: raw, lambda _: read, seconds_max=0.05), tmp_path)
    verdict = judge.judge(b"a case")
    JUDGED.set()
    assert (kind, True) == (verdict.kind, said in verdict.defect)


def test_defect_report_has_the_command_to_repeat_it(tmp_path: Path) -> None:
    """The report of a defect has the target, the seed, the file with the case and the command to run it again."""
    report = Report("manifest", "20000", defects=[Defect("hang", "not read", b"{}")])
    assert [0, 1, 0, 0, 0] == [report.count(kind) for kind in KINDS]
    [told] = report.told(tmp_path)
    assert "manifest, seed 20000: hang: not read" in told
    assert f"python -m tests.support.fuzz.worker manifest /tmp/fuzz --case {tmp_path}/manifest-hang-1" in told
    assert b"{}" == (tmp_path / "manifest-hang-1").read_bytes()
