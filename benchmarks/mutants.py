"""Whether the tests detect twenty deliberate faults, inserted one at a time in critical code.

scripts/bench mutants [--json] [FAULT...]

Works on a copy of the source tree. Each fault removes a sync, weakens a comparison, or skips a check of a digest, a
signature or a limit. The unit and contract tests that import the module run on it, and if they pass, the fast process
tests that do. A fault that no test notices survives, and misses the bar. It takes about 15 minutes on two quiet cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bars
from benchmarks.bars import Bar

ROOT = Path(__file__).parent.parent
SOURCES = ("edge_agent", "convert")
COPIED = (*SOURCES, "tests", "benchmarks", "installer", "docs", "examples", "systemd", "scripts", "proto")
TIERS = (
    (("tests/unit", "tests/contract"), "not slow and not release"),
    (("tests/process", "tests/e2e"), "not slow and not release"),
    (("tests/unit", "tests/process"), "slow and not release"),
)
"""In which folders, and which tests of them, a fault is looked for, one after the other."""


FEW_FILES = 3
"""To start workers takes longer than to run the tests of so many files."""


@dataclass(frozen=True)
class Mutant:
    """One fault: `found` occurs once in the sources, and `put` takes its place."""

    name: str
    found: str
    put: str


MUTANTS = (
    Mutant("equal to the threshold", "not probability >= self.threshold", "not probability > self.threshold"),
    Mutant("a confidence equal to the floor", "if probability >= self.floor", "if probability > self.floor"),
    Mutant("the edge of the gate", "self.p_value(score) <= self.held_up_max", "self.p_value(score) < self.held_up_max"),
    Mutant("the level of the threshold's test", "self.target) <= self.delta", "self.target) <= 2 * self.delta"),
    Mutant("the end of the fixed sequence", 'is_open = is_open and verdict != "failed"', "is_open = bool(is_open)"),
    Mutant("a sync of a written file", "os.fchmod(fd, mode)\n        os.fsync(fd)", "os.fchmod(fd, mode)"),
    Mutant(
        "a sync of a directory", "    _sync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)", "    os.stat(path)"
    ),
    Mutant("the expiry of metadata", "expires.timestamp() <= max(clock, signed)", "expires.timestamp() <= signed"),
    Mutant("an older version of metadata", "if version < floor.version:", "if version < floor.version - 1:"),
    Mutant("a second file of one version", 'floor.sha256 not in ("", sha256)', 'floor.sha256 in ("-",)'),
    Mutant("the hash of a download", "if self._hash.hexdigest() != self.sha256:", "if not self.sha256:"),
    Mutant(
        "the hash of a stored blob", 'return hashlib.file_digest(file, "sha256").hexdigest() == sha256', "return True"
    ),
    Mutant("the hash of a stored manifest", "if digest_of(manifest_bytes) != digest:", "if not digest:"),
    Mutant("the self-test's share of wrong answers", "> DIFFERENT_PERCENT_MAX * compared", "> 100 * compared"),
    Mutant("the daily cap", "self.on(day) + micros <= caps.day_micros", "self.on(day) <= caps.day_micros"),
    Mutant("the alarm of the risk test", "self.peak >= guarantee.limit", "self.peak >= 1e9 * guarantee.limit"),
    Mutant("the number of files in an archive", "if len(members) > limits.files_max:", "if not members:"),
    Mutant("the hash of a sealed segment", "if (signed.body.size_bytes, signed.body.sha256) != (", "if () == ("),
    Mutant("the size of a message to an engine", "if size > protocol.FRAME_BYTES_MAX:", "if size < 0:"),
    Mutant("a probability above one", "not 0 < value <= 1", "not 0 < value"),
)


def place_of(mutant: Mutant, tree: Path) -> Path:
    """Return the file that contains the text of a fault exactly once. Raises LookupError."""
    every = [path for folder in SOURCES for path in sorted((tree / folder).rglob("*.py"))]
    counts = {path: path.read_text(encoding="utf-8").count(mutant.found) for path in every}
    places = [path for path, count in counts.items() if count]
    if len(places) != 1 or counts[places[0]] != 1:
        raise LookupError(f"{mutant.name}: its text stands {sum(counts.values())} times in the sources, not once")
    return places[0]


def tests_of(module: Path, folders: Sequence[str]) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the test files in these folders that bear a module's name, import it, or import something that does."""
    sources = [path for folder in SOURCES for path in Path(folder).rglob("*.py")]
    helpers = [path for path in Path("tests").rglob("*.py") if not path.name.startswith("test_")]
    files = [path for folder in folders for path in sorted(Path(folder).rglob("test_*.py"))]
    near = _importers([module, *_importers([module], helpers)], files)
    users = _importers([module], sources)
    far = _importers([*users, *_importers(users, helpers)], files)
    own = [path for path in near if path.stem == f"test_{module.stem}"]
    return own, _without(near, own), _without(far, near)


def _without(paths: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path not in others]


def _importers(modules: Sequence[Path], files: Sequence[Path]) -> list[Path]:
    if not modules:
        return []
    imports = re.compile("|".join(map(_import_of, modules)))
    return [path for path in files if imports.search(path.read_text(encoding="utf-8"))]


def _import_of(module: Path) -> str:
    dotted = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
    parent, _, leaf = dotted.rpartition(".")
    return rf"from {re.escape(dotted)} import|from {re.escape(parent)} import [^\n]*\b{leaf}\b"


def noticed(tree: Path, module: Path) -> str:
    """Run the tests of a module in a tree until one fails; return its name, or nothing."""
    os.chdir(tree)
    for folders, tier in TIERS:
        for files in tests_of(module, folders):  # one after the other: to import all takes longer than to run the first
            if files and (failed := first_failure(tree, [*map(str, files)], tier)):
                return failed
    return ""


def first_failure(tree: Path, tests: Sequence[str], tier: str = "") -> str:
    """Run tests in a tree until one fails; return its name, or nothing."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    workers = ["-n2", "--dist", "loadfile"] if len(tests) > FEW_FILES else ["-n0"]
    command = [sys.executable, "-m", "pytest", "-x", "-q", *workers, "-m", tier, *tests]
    ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    failed = re.search(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", ended.stdout, re.MULTILINE)
    none_collected = 5
    if failed or ended.returncode in (0, none_collected):
        return failed.group(1) if failed else ""
    return f"pytest ended with {ended.returncode}"


def copied(tree: Path) -> None:
    """Copy everything that tests read into a tree; libraries and caches are links."""
    tree.chmod(0o755)  # some tests run a daemon as another user
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
        shutil.copy2(ROOT / file, tree / file)
    for folder in (".venv", ".cache"):
        (tree / folder).symlink_to(ROOT / folder)


def _chosen(words: Sequence[str]) -> list[Mutant]:
    """Return the faults with one of these words in their names, or all; exit if there is none."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    if not chosen:
        names = "; ".join(each.name for each in MUTANTS)
        sys.exit(f"No fault has {' or '.join(words)} in its name; there are: {names}.")
    return chosen


def measure() -> Iterator[Bar]:
    """Put each fault into a copy of the sources, and count those that no test notices."""
    chosen = _chosen([word for word in sys.argv[1:] if not word.startswith("-")])
    survived = 0
    with tempfile.TemporaryDirectory(prefix="mutants.") as name:
        tree = Path(name)
        copied(tree)
        for at, mutant in enumerate(chosen, 1):
            place = place_of(mutant, tree)
            original = place.read_text(encoding="utf-8")
            place.write_text(original.replace(mutant.found, mutant.put), encoding="utf-8")
            killer = noticed(tree, place.relative_to(tree))
            place.write_text(original, encoding="utf-8")
            if killer and first_failure(tree, [killer]):
                sys.exit(f"{killer} fails without the fault, too")
            print(f"{at}/{len(chosen)} {mutant.name}: {killer or 'SURVIVED'}", file=sys.stderr, flush=True)  # noqa: T201
            survived += not killer
    yield Bar("deliberate faults that no test notices", survived, 0, "lower")


if __name__ == "__main__":
    sys.exit(bars.main(measure))
