"""Rows of bundles: errors for an operator who installs, activates, rolls back or removes one."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.support.bundles import digest_of, echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.reason_cases.call_cases import LABELS, TASK, answers, serving
from tests.support.reason_cases.case import CaseOutcome, CommandEnd, case, edge_agent, follow

WEIGHTS = b"w" * 5000
CENTRAL = "the central team"


def version(folder: Path, number: str, weights: bytes = WEIGHTS) -> Path:
    """Write a version of the task with weights."""
    return echo_bundle(folder / f"bundle-{number}", TASK, "classify", LABELS, version=number, weights=weights)


def person_of(remedy: str) -> str:
    """Return the central team if a remedy needs something that only the team has."""
    return CENTRAL if "edge-convert" in remedy or "assembled" in remedy or "central team" in remedy else ""


def spoilt(folder: Path, spoil: Callable[[Path], object]) -> CaseOutcome:
    """Install a bundle that was spoilt on its way, read the remedy, and install the bundle as it was made."""
    with serving(folder) as daemon:
        whole = version(folder, "2.0.0")
        bad = folder / "copied"
        shutil.copytree(whole, bad)
        spoil(bad)
        met = edge_agent(daemon, "install", bad)
        assert met.code == 5, met.text
        assert answers(daemon), "the bundle before answers on"
        _succeeded(edge_agent(daemon, "install", whole))
        return CaseOutcome(met.reasons, answers(daemon), person_of(met.remedy))


def _succeeded(met: CommandEnd) -> None:
    assert met.code == 0, met.text


def change_manifest(**changes: object) -> Callable[[Path], object]:
    """Return what writes fields into a manifest."""

    def change(bundle: Path) -> None:
        path = bundle / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def weights_of(bundle: Path) -> Path:
    """Return the file with the weights."""
    return bundle / "echo.weights.bin"


@case("BUNDLE_UNREADABLE", "operator")
def bundle_unreadable(folder: Path) -> CaseOutcome:
    """An operator names a plain file; the directory is installed."""
    with serving(folder) as daemon:
        whole = version(folder, "2.0.0")
        met = edge_agent(daemon, "install", weights_of(whole))
        _succeeded(edge_agent(daemon, "install", whole))
        return CaseOutcome(met.reasons, met.code == 5 and answers(daemon))


@case("MANIFEST_INVALID", "operator")
def manifest_invalid(folder: Path) -> CaseOutcome:
    """A manifest breaks a rule."""
    return spoilt(folder, change_manifest(runtime="abacus"))


@case("SCHEMA_UNKNOWN", "operator")
def schema_unknown(folder: Path) -> CaseOutcome:
    """A bundle of a later program."""
    return spoilt(folder, change_manifest(schema="edge-agent.bundle/9"))


@case("FILE_MISSING", "operator")
def file_missing(folder: Path) -> CaseOutcome:
    """A copy without its weights."""
    return spoilt(folder, lambda bundle: weights_of(bundle).unlink())


@case("HASH_MISMATCH", "operator")
def hash_mismatch(folder: Path) -> CaseOutcome:
    """A copy with a changed byte."""
    return spoilt(folder, lambda bundle: weights_of(bundle).write_bytes(b"x" + WEIGHTS[1:]))


@case("PATH_UNSAFE", "operator")
def path_unsafe(folder: Path) -> CaseOutcome:
    """A tar with a path that leads outside; who made it is to be found out."""
    with serving(folder) as daemon:
        archive = folder / "bundle.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(version(folder, "2.0.0") / "manifest.json", "manifest.json")
            entry = tarfile.TarInfo("../../etc/cron.d/x")
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
        met = edge_agent(daemon, "install", archive)
        return CaseOutcome(met.reasons, answers(daemon), person_of(met.remedy))


def _after_setting(folder: Path, settings: dict[str, object], key: str) -> CaseOutcome:
    """Meet the limit of a setting, set what the remedy says, restart, install again."""
    whole = version(folder, "2.0.0")
    with RunningDaemon(folder / "site", store=settings) as daemon:
        met = edge_agent(daemon, "install", whole)
        assert (met.code, True) == (5, key in met.remedy + met.text), met.text
    with RunningDaemon(folder / "site") as daemon:  # which allows it
        _succeeded(edge_agent(daemon, "install", whole))
        return CaseOutcome(met.reasons, answers(daemon))


@case("BUNDLE_TOO_LARGE", "operator")
def bundle_too_large(folder: Path) -> CaseOutcome:
    """A bundle over the site's limit; with the limit raised it is installed."""
    return _after_setting(folder, {"bundle_bytes_max": 4096}, "'bundle_bytes_max' under 'store'")


@case("BUNDLE_UNSIGNED", "operator")
def bundle_unsigned(folder: Path) -> CaseOutcome:
    """An unsigned bundle on a site that wants signed ones; with the setting that the remedy names it is installed."""
    return _after_setting(folder, {"allow_unsigned": False}, "allow_unsigned: true")


@case("REQUIREMENT_UNMET", "operator")
def requirement_unmet(folder: Path) -> CaseOutcome:
    """A bundle for a later program."""
    return spoilt(folder, change_manifest(requires={"agent": "99.0.0"}))


@case("MODEL_LOAD_FAILED", "operator")
def model_load_failed(folder: Path) -> CaseOutcome:
    """Weights that no runtime loads: the version before answers on, and the central team builds the bundle again."""
    with serving(folder) as daemon:
        bad = version(folder, "2.0.0")
        change_manifest(runtime="llama")(bad)
        met = edge_agent(daemon, "install", bad)
        assert answers(daemon), "the bundle before answers on"
        _succeeded(edge_agent(daemon, "install", version(folder, "3.0.0")))
        [back] = follow(daemon, folder, met.remedy, TASK=TASK)
        return CaseOutcome(met.reasons, not back.code and answers(daemon), person_of(met.remedy))


@case("BUNDLE_UNKNOWN", "operator")
def bundle_unknown(folder: Path) -> CaseOutcome:
    """An operator names a version that is not here; the list has those that are."""
    with serving(folder) as daemon:
        met = edge_agent(daemon, "activate", TASK, "9.9.9")
        [shown] = follow(daemon, folder, met.remedy)
        assert "1.0.0" in shown.said, shown.said
        return CaseOutcome(met.reasons, met.code == 2 and not edge_agent(daemon, "activate", TASK, "1.0.0").code)


@case("BUNDLE_AMBIGUOUS", "operator")
def bundle_ambiguous(folder: Path) -> CaseOutcome:
    """Two bundles have one version; a longer part of the digest tells them apart."""
    with serving(folder) as daemon:
        one, two = version(folder / "a", "2.0.0", b"a" * 100), version(folder / "b", "2.0.0", b"b" * 100)
        daemon.install(one, two)
        met = edge_agent(daemon, "activate", TASK, "2.0.0")
        return CaseOutcome(
            met.reasons, met.code == 2 and not edge_agent(daemon, "activate", TASK, digest_of(one)[:12]).code
        )


@case("NOTHING_TO_ROLL_BACK", "operator")
def nothing_to_roll_back(folder: Path) -> CaseOutcome:
    """The task has one version; the list shows it."""
    with serving(folder) as daemon:
        met = edge_agent(daemon, "rollback", TASK)
        shown = follow(daemon, folder, met.remedy, TASK=TASK, VERSION="1.0.0")
        return CaseOutcome(met.reasons, met.code == 2 and "1.0.0" in shown[0].said and answers(daemon))


@case("BUNDLE_IN_USE", "operator")
def bundle_in_use(folder: Path) -> CaseOutcome:
    """An operator removes the version that answers; after another one is activated and again another, it goes."""
    with serving(folder) as daemon:
        met = edge_agent(daemon, "remove", TASK, "1.0.0", "--yes")
        daemon.install(version(folder, "2.0.0"), version(folder, "3.0.0"))
        removed = edge_agent(daemon, "remove", TASK, "1.0.0", "--yes")
        return CaseOutcome(met.reasons, met.code == 2 and not removed.code)
