"""Privacy at the central team: lineage, consent, retention, and the log of decisions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from convert.cli import app
from convert.dataset import lineage
from convert.dataset.lineage import LineageDocument
from convert.fleet import accountability
from edge_agent.formats.signed_document import format_timestamp
from tests.support.examples import NOW, feedback, prediction, tombstone
from tests.support.modes import not_private
from tests.support.segments import CentralTeam, SealingSite

TEXTS = ("how much is the kettle", "do you deliver to the island", "my parcel is late")
DAY = 86_400.0


class CorrectedSite:
    """A collection of three corrected records of one site, and the commands on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.site, self.central = root, SealingSite(root / "store"), CentralTeam(root)
        made = [prediction(n, input=text, at=format_timestamp(NOW - n * DAY)) for n, text in enumerate(TEXTS, 1)]
        self.site.seal([record for n, each in enumerate(made, 1) for record in (each, feedback(n))])
        self.collect()

    def collect(self) -> None:
        self.report = self.central.collect(self.root / "store")

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["privacy", *arguments, "--collected", str(self.central.out)])

    def dataset(self) -> Path:
        """Make training rows."""
        out = self.root / "data"
        asked = ["dataset", str(self.central.out), "--task", "pos-intent", "--format", "text-label"]
        made = CliRunner().invoke(app, [*asked, "--shares", "train=1", "--out", str(out), "--force"])
        assert 0 == made.exit_code, made.output
        return out

    def log(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(each.action, each.subjects) for each in accountability.entries(self.central.out)]


@pytest.fixture
def team(tmp_path: Path) -> CorrectedSite:
    return CorrectedSite(tmp_path)


def bundle(version: str, **records: list[str]) -> LineageDocument:
    return LineageDocument("bundle", "pos-intent", records, version=version, digest=version * 32)


# --- lineage ----------------------------------------------------------------------------------------------------------


def test_lineage_finds_the_dataset_of_a_record(team: CorrectedSite):
    """Lineage names the dataset and its split, the register is private, and an unknown record is in no dataset."""
    team.dataset()
    found = json.loads(team.run("lineage", "site-1/p-2", "--json").stdout)
    assert [("dataset", {"train": ["site-1/p-2"]}, "rows")] == [
        (use["kind"], use["records"], use["consequence"]) for use in found["uses"]
    ]
    assert [] == not_private(team.central.out)
    assert "no dataset or bundle here" in team.run("lineage", "site-1/p-9").stdout


def test_bundle_that_learned_from_a_record_is_to_be_retired(tmp_path: Path):
    """Training rows and golden cases require retirement, calibration and test rows do not; bundles to retire come
    first."""
    for document in (bundle("1", test=["a/p"]), bundle("2", train=["a/p", "a/q"]), bundle("3", golden=["a/p"])):
        lineage.register(tmp_path, document)
    uses = lineage.trace(lineage.documents(tmp_path), ["a/p"])
    assert [("2", "retire"), ("3", "retire"), ("1", "measured")] == [
        (use.document.version, use.consequence) for use in uses
    ]
    assert "revoke this version" in uses[0].sentence()


def test_damaged_lineage_document_is_left_out(tmp_path: Path):
    """Damaged documents, and a work folder that does not exist, do not stop the query."""
    lineage.register(tmp_path, bundle("1", train=["a/p"]))
    for name, content in (("bundle-x.json", "{"), ("bundle-y.json", '{"schema": "other"}'), ("dataset-z.json", "[]")):
        (tmp_path / lineage.FOLDER / name).write_text(content)
    assert ["1"] == [each.version for each in lineage.documents(tmp_path, [tmp_path / "nowhere"])]


def test_unreadable_lineage_document_is_named(team: CorrectedSite):
    """An unreadable document could contain the record, so the answer has a warning and lists it."""
    team.dataset()
    for name, content in (("a", "{"), ("b", '{"schema": "edge-agent/lineage/v1", "records": {"train": "x"}}')):
        (team.central.out / lineage.FOLDER / f"bundle-{name}.json").write_text(content)
    asked = team.run("lineage", "site-1/p-2")
    assert (0, True) == (asked.exit_code, "warning: " in asked.output), asked.output
    unread = json.loads(team.run("lineage", "site-1/p-2", "--json").stdout)["unread"]
    assert ["bundle-a.json", "bundle-b.json"] == [Path(each).name for each in unread]


def test_dataset_in_two_folders_is_named_twice(team: CorrectedSite):
    """The same command writes identical files, and both folders must be deleted."""
    first = team.dataset()
    asked = ["dataset", str(team.central.out), "--task", "pos-intent", "--format", "text-label", "--shares", "train=1"]
    assert 0 == CliRunner().invoke(app, [*asked, "--out", str(team.root / "more")]).exit_code
    found = json.loads(team.run("lineage", "site-1/p-2", "--json").stdout)["uses"]
    assert {str(first), str(team.root / "more")} == {use["place"] for use in found}


def test_erasure_lists_bundles_that_learned_from_the_record(team: CorrectedSite):
    """The report of the collect run lists them, `privacy lineage --erased` lists them later, and the log has the
    erasure."""
    team.dataset()
    lineage.register(team.central.out, bundle("1", train=["site-1/p-1"]))
    team.site.seal([tombstone(1)])
    team.collect()
    assert ["retire", "rows"] == [use["consequence"] for use in team.report.concerned]
    shown = team.run("lineage", "--erased")
    assert (0, True) == (shown.exit_code, "1 record: 1 bundle to retire" in shown.stdout), shown.output
    assert ("records erased", ("site-1/p-1",)) == team.log()[-1]


# --- consent ----------------------------------------------------------------------------------------------------------


def test_recorded_consent_marks_the_row(team: CorrectedSite):
    """A row is marked as consented until the consent is withdrawn, and the log has both actions."""
    assert 0 == team.run("consent", "site-1/p-1", "--basis", "form-118").exit_code
    rows = [json.loads(line) for line in (team.dataset() / "train.jsonl").read_text().splitlines()]
    assert {"p-1": True, "p-2": None, "p-3": None} == {row["prediction_id"]: row.get("consented") for row in rows}
    assert 0 == team.run("consent", "site-1/p-1", "--withdraw").exit_code
    assert frozenset() == accountability.consents(team.central.out)
    assert ["consent recorded", "consent withdrawn"] == [action for action, _ in team.log()[-2:]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["site-1/p-1"], "the consent has no basis"),
        (["--basis", "form"], "no record is named"),
        (["p-1", "--basis", "form"], "is not a record"),
    ],
)
def test_consent_without_record_or_basis_is_refused(team: CorrectedSite, arguments: list[str], said: str):
    """The log does not change."""
    before = team.log()
    refused = team.run("consent", *arguments)
    assert (2, True) == (refused.exit_code, said in refused.output), refused.output
    assert before == team.log()


# --- retention --------------------------------------------------------------------------------------------------------


def test_purge_deletes_examples_after_their_retention(tmp_path: Path):
    """Records and examples of that site are deleted, and a second run of collect does not restore them."""
    team = CorrectedSite(tmp_path)
    other = SealingSite(tmp_path / "store", "site-2")
    other.seal([prediction(1, at=format_timestamp(NOW - 9 * DAY))])
    team.collect()
    counted = json.loads(team.run("purge", "--keep", "site-1/*=1", "--dry-run", "--json").stdout)
    assert {"site-1/pos-intent": 3} == counted["by_site_and_task"]
    assert 4 == len(team.central.query("FROM examples"))
    done = team.run("purge", "--keep", "site-1/*=1", "--yes")
    assert (0, True) == (done.exit_code, "3 examples deleted" in done.stdout), done.output
    team.collect()
    assert [("site-2",)] == team.central.query("SELECT DISTINCT site FROM records")
    assert [("site-2",)] == team.central.query("SELECT site FROM examples")
    assert "records purged" == team.log()[-1][0]
    assert [] == not_private(team.central.out)


def test_most_specific_retention_rule_applies(tmp_path: Path):
    """A rule for one site overrides the rule for all, with a longer or a shorter time; of two equally specific rules
    the shorter time applies. Any number of days is accepted."""
    team = CorrectedSite(tmp_path)
    other = SealingSite(tmp_path / "store", "site-2")
    other.seal([prediction(1, at=format_timestamp(NOW - 9 * DAY))])
    team.collect()

    def due(*rules: str) -> dict[str, int]:
        keep = [option for rule in rules for option in ("--keep", rule)]
        return json.loads(team.run("purge", *keep, "--dry-run", "--json").stdout)["by_site_and_task"]

    assert {"site-1/pos-intent": 3, "site-2/pos-intent": 1} == due("*/*=1")
    assert {"site-2/pos-intent": 1} == due("*/*=1", "site-1/*=1000000")
    assert {"site-1/pos-intent": 3} == due("*/*=1000000", "site-1/pos-intent=1", "site-1/*=1000000")
    assert {"site-1/pos-intent": 3} == due("site-1/*=1", "*/pos-intent=1000000")
    assert {} == due("*/*=1", "*/pos-intent=1000000")


def test_purge_without_due_examples_changes_nothing(team: CorrectedSite):
    """Files and log do not change."""
    before = team.log(), team.central.files()
    assert 0 == team.run("purge", "--keep", "*/other=1", "--yes").exit_code
    assert before == (team.log(), team.central.files())


@pytest.mark.parametrize("rule", ["", "site-1=3", "site-1/x=", "*/*=-1", "../x/*=3"])
def test_invalid_retention_rule_is_refused(team: CorrectedSite, rule: str):
    """The command ends with code 2."""
    refused = team.run("purge", "--keep", rule, "--yes")
    assert (2, True) == (refused.exit_code, "is not understood" in refused.output)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_log_names_the_actor_who_accepted_a_key(team: CorrectedSite):
    """Collect accepts the first key of a new site and a person accepts others; the log's hash chain is verified."""
    key = "ab" * 32
    asked = ["sites", "accept", "site-1", key, "--collected", str(team.central.out)]
    assert 0 == CliRunner().invoke(app, asked).exit_code
    first, second = accountability.entries(team.central.out)[:2]
    assert ("collect", "key accepted", key) == (first.actor, first.action, second.details["key"])
    assert accountability.current_actor() == second.actor
    shown = team.run("log")
    assert (0, True) == (shown.exit_code, "the chain holds" in shown.stdout), shown.output
    head = json.loads(team.run("log", "--json").stdout)["head"]
    assert 0 == team.run("log", "--contains", head).exit_code


def test_changed_log_is_reported_with_code_1(team: CorrectedSite):
    """The output names the changed line."""
    accountability.record(team.central.out, "site revoked", ["site-1"])
    path = team.central.out / accountability.FILE_NAME
    path.write_bytes(path.read_bytes().replace(b"collect", b"nobody!", 1))
    shown = team.run("log")
    assert (1, True) == (shown.exit_code, "broken: line 2" in shown.stdout), shown.output
    assert accountability.verify_chain(path).problems


def test_purge_without_a_collection_is_refused(tmp_path: Path):
    """`privacy purge` ends with code 2 if the folder has no collection."""
    refused = CliRunner().invoke(app, ["privacy", "purge", "--keep", "*/*=1", "--collected", str(tmp_path / "nowhere")])
    assert (2, True) == (refused.exit_code, "nothing is collected in" in refused.output), refused.output


@pytest.mark.parametrize("command", [["lineage", "a/b"], ["log"], ["lineage", "a/b", "--work", "typo"]])
def test_missing_folder_is_refused(tmp_path: Path, command: list[str]):
    """`privacy lineage` and `privacy log` refuse a mistyped folder, because it would look like a clean result."""
    collected = tmp_path if "--work" in command else tmp_path / "typo"
    command = [str(tmp_path / each) if each == "typo" else each for each in command]
    refused = CliRunner().invoke(app, ["privacy", *command, "--collected", str(collected)])
    assert (2, True) == (refused.exit_code, "typo is not a folder" in " ".join(refused.output.split())), refused.output
