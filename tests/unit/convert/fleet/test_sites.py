"""The registry of sites: which keys speak for which, what became of others, and who decides about it."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from convert.cli import app
from convert.collect.segment_intake import SiteKeyTrust
from convert.fleet import accountability
from convert.fleet.site_registry import EnrolmentRecord, KeyStatus, SiteRegistry
from edge_agent.errors import InvalidRequest, ManifestInvalid

ONE, TWO, THREE = "1a" * 32, "2b" * 32, "3c" * 32


def test_keys_add_up(tmp_path: Path):
    """Each accepted key stays, once; another site has its own."""
    path = tmp_path / "sites.json"
    for key in (ONE, TWO, ONE):
        SiteRegistry(path).accept("shop-1", key)
    assert ([ONE, TWO], []) == (SiteRegistry(path).keys("shop-1"), SiteRegistry(path).keys("shop-2"))


@pytest.mark.parametrize(("site", "key"), [("Shop 1", ONE), ("", ONE), ("shop-1", "1a"), ("shop-1", ONE.upper())])
def test_what_is_no_site_and_no_key_is_refused(tmp_path: Path, site: str, key: str):
    """Nothing is written down."""
    with pytest.raises(InvalidRequest):
        SiteRegistry(tmp_path / "sites.json").accept(site, key)
    assert not (tmp_path / "sites.json").exists()


def test_a_folder_is_no_registry(tmp_path: Path):
    """`--sites collected` would otherwise show a fleet without sites."""
    with pytest.raises(ManifestInvalid, match="is not a file"):
        SiteRegistry(tmp_path)
    done = CliRunner().invoke(app, ["sites", "list", "--sites", str(tmp_path)])
    assert (2, True) == (done.exit_code, "sites.json" in done.output), done.output


def test_a_registry_that_is_not_there_is_noted(tmp_path: Path):
    """A list without sites is no proof that there are none: the folder may be mistyped."""
    done = CliRunner().invoke(app, ["sites", "list", "--json", "--collected", str(tmp_path / "colected")])
    assert (0, {"sites": {}, "waiting": {}}) == (done.exit_code, json.loads(done.stdout))
    assert f"note: {tmp_path / 'colected' / 'sites.json'} does not exist yet" in done.stderr


@pytest.mark.parametrize("content", ["", "{", '{"schema": "edge-agent/sites/v2"}', '{"sites": {"a": {"keys": []}}}'])
def test_a_spoilt_registry_is_an_error(tmp_path: Path, content: str):
    """It is not taken for an empty one, which would trust anybody."""
    (tmp_path / "sites.json").write_text(content)
    with pytest.raises(ManifestInvalid, match=r"sites\.json"):
        SiteRegistry(tmp_path / "sites.json")


@pytest.mark.parametrize("name", ["sites.json", "fleet.json"])
def test_the_printed_command_accepts_the_key(tmp_path: Path, name: str):
    """What an objection prints runs as it stands: it names the folder of collect, or the file of the registry."""
    path = tmp_path / "a folder" / name
    path.parent.mkdir()
    SiteRegistry(path).accept("shop-1", ONE)
    printed = SiteRegistry(path).objection("shop-1", TWO).partition("'edge-convert ")[2].removesuffix("'")
    done = CliRunner().invoke(app, shlex.split(printed))
    assert (0, [ONE, TWO]) == (done.exit_code, SiteRegistry(path).keys("shop-1"))


def test_the_first_key_is_written_down_at_once(tmp_path: Path):
    """A crash after the first segment leaves no second chance to another key."""
    trust = SiteKeyTrust(SiteRegistry(tmp_path / "sites.json"), registered_only=False)
    assert "" == trust.objection("shop-1", ONE)
    again = SiteKeyTrust(SiteRegistry(tmp_path / "sites.json"), registered_only=False)
    assert ("", True) == (again.objection("shop-1", ONE), "another key" in again.objection("shop-1", TWO))


def test_a_decision_that_was_made_meanwhile_is_kept(tmp_path: Path):
    """While collect runs, which read the registry at its start, a site is revoked and a stranger's key rejected: the
    first key of another site is stored beside that, and the rejected one is not trusted."""
    path = tmp_path / "sites.json"
    SiteRegistry(path).accept("shop-1", ONE)
    running = SiteKeyTrust(SiteRegistry(path), registered_only=False)
    SiteRegistry(path).revoke("shop-1", "2026-11-26T10:00:00Z")
    SiteRegistry(path).reject("shop-3", THREE)
    assert "" == running.objection("shop-2", TWO)
    assert "rejected" in running.objection("shop-3", THREE)
    standings = [SiteRegistry(path).key_status(*each) for each in (("shop-1", ONE), ("shop-2", TWO), ("shop-3", THREE))]
    assert ["revoked", "current", "rejected"] == standings
    assert {"shop-2": TWO} == running.pinned


@pytest.mark.slow
def test_changes_at_the_same_time_are_all_kept(tmp_path: Path):
    """Several processes accept keys of sites of their own; none overwrites what another wrote."""
    code = (
        "import sys; from pathlib import Path; from convert.fleet.site_registry import SiteRegistry\n"
        "for number in range(20): SiteRegistry(Path(sys.argv[1])).accept(f'{sys.argv[2]}-{number}', 64 * 'a')"
    )
    names = ("shop", "bar", "clinic")
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "sites.json", name]) for name in names]
    assert [0, 0, 0] == [each.wait(120) for each in running]
    assert 60 == len(SiteRegistry(tmp_path / "sites.json").names())


def test_a_decision_that_cannot_be_logged_is_not_made(tmp_path: Path):
    """The log comes first, so no key is accepted without a line about it."""
    (tmp_path / accountability.FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="accountability"):
        SiteRegistry(tmp_path / "sites.json").accept("shop-1", ONE)
    assert [] == SiteRegistry(tmp_path / "sites.json").every_name()


def test_a_registry_that_could_not_be_read_again_is_not_written(tmp_path: Path):
    """A site can have a hundred keys; one more is refused, and neither stored nor logged."""
    path = tmp_path / "sites.json"
    full = {"schema": "edge-agent/sites/v1", "sites": {"shop-1": {"keys": [f"{number:064x}" for number in range(100)]}}}
    path.write_text(json.dumps(full))
    with pytest.raises(InvalidRequest, match="shop-1 would have 101 keys"):
        SiteRegistry(path).accept("shop-1", ONE)
    assert (100, []) == (len(SiteRegistry(path).keys("shop-1")), accountability.entries(tmp_path))


def test_the_folder_of_a_new_registry_is_private(tmp_path: Path):
    """Enrolment files are made before anything is collected into it."""
    SiteRegistry(tmp_path / "collected" / "sites.json").issue("shop-1", enrolment())
    assert 0o700 == stat.S_IMODE((tmp_path / "collected").stat().st_mode)


def enrolment(number: int = 1) -> EnrolmentRecord:
    """Return what is kept of an enrolment file."""
    return EnrolmentRecord(sha256=f"{number:064x}", issued_at="2026-11-25T10:00:00Z", expires_at="2026-12-25T10:00:00Z")


def registry(path: Path) -> SiteRegistry:
    """Return one with a site in each state."""
    sites = SiteRegistry(path / "sites.json")
    sites.issue("awaited", enrolment())
    sites.accept("replaced", ONE)
    sites.accept("replaced", TWO, replaces=True)
    sites.accept("stolen", ONE)
    sites.reject("stolen", ONE)
    sites.accept("former", TWO)
    sites.retire("former", ONE)
    sites.accept("given-up", ONE)
    sites.revoke("given-up", "2026-11-26T10:00:00Z")
    return SiteRegistry(path / "sites.json")


@pytest.mark.parametrize(
    ("site", "key", "standing"),
    [
        ("awaited", ONE, "awaited"),
        ("replaced", ONE, "retired"),
        ("replaced", TWO, "current"),
        ("replaced", THREE, "another"),
        ("stolen", ONE, "rejected"),
        ("stolen", TWO, "awaited"),
        ("former", ONE, "retired"),
        ("former", TWO, "current"),
        ("given-up", ONE, "revoked"),
        ("given-up", TWO, "revoked"),
        ("nobody", ONE, "unknown"),
    ],
)
def test_what_a_key_is_to_a_site(tmp_path: Path, site: str, key: str, standing: KeyStatus):
    """By what was decided; and only a current one speaks for the site."""
    sites = registry(tmp_path)
    assert standing == sites.key_status(site, key)
    assert (standing == "current") == (key in sites.keys(site))
    trust = SiteKeyTrust(sites, registered_only=True)
    assert ("" == trust.objection(site, key)) == (standing == "current")
    assert ("" == trust.objection_to_sealed(site, key)) == (standing in ("current", "retired"))


def test_a_site_with_a_enrolment_is_never_taken_at_its_word(tmp_path: Path):
    """Whoever writes there first is not trusted: every key waits, and is counted."""
    trust = SiteKeyTrust(registry(tmp_path), registered_only=False)
    for key in (ONE, ONE, TWO):
        assert "not accepted yet" in trust.objection("awaited", key)
    assert ({}, {("awaited", ONE): 2, ("awaited", TWO): 1}) == (trust.pinned, trust.waiting)


def test_every_decision_can_be_taken_back(tmp_path: Path):
    """A rejected key can be accepted, a retired one speak again, a revoked site be restored."""
    sites = registry(tmp_path)
    sites.accept("stolen", ONE)
    sites.accept("replaced", ONE)
    with pytest.raises(InvalidRequest, match="was revoked on 2026-11-26") as refused:
        sites.accept("given-up", TWO)
    assert f"'edge-convert sites restore given-up --collected {tmp_path}'" in (refused.value.remedy or "")
    sites.restore("given-up")
    sites.accept("given-up", TWO)
    again = SiteRegistry(tmp_path / "sites.json")
    assert [[ONE], [TWO, ONE], [ONE, TWO]] == [again.keys(site) for site in ("stolen", "replaced", "given-up")]
    with pytest.raises(InvalidRequest):
        sites.revoke("nobody", "2026-11-26T10:00:00Z")


def test_a_revoked_site_is_not_waited_for(tmp_path: Path):
    """It is in the list of all, and in no other."""
    sites = registry(tmp_path)
    assert {"given-up"} == set(sites.every_name()) - set(sites.names())


def test_a_decision_is_kept_as_it_was_read(tmp_path: Path):
    """Reading a registry and changing it loses nothing; what changes nothing is not written."""
    sites = registry(tmp_path)
    before = (tmp_path / "sites.json").stat().st_ino
    sites.accept("former", TWO)
    assert before == (tmp_path / "sites.json").stat().st_ino
    for number in range(30):
        sites.issue("awaited", enrolment(number))
    assert 20 == len(SiteRegistry(tmp_path / "sites.json").entry("awaited").kits)
    assert [TWO] == SiteRegistry(tmp_path / "sites.json").keys("former")


class Desk:
    """The commands of the central team, on a registry and what collect said."""

    def __init__(self, folder: Path) -> None:
        registry(folder)
        self.folder = folder
        waiting = [{"site": site, "key": THREE, "documents": 4} for site in ("awaited", "replaced", "stranger")]
        waiting.append({"site": "stolen", "key": ONE, "documents": 1})  # decided since
        (folder / "report.json").write_text(json.dumps({"waiting": waiting}))

    def run(self, *arguments: str) -> Result:
        """Run a command."""
        return CliRunner().invoke(app, ["sites", *arguments, "--collected", str(self.folder)])


def test_the_list_shows_what_waits(tmp_path: Path):
    """Every site in a line, with the codes to compare."""
    shown = Desk(tmp_path).run("list").output
    assert "\nreplaced   needs a decision        2b2b-2b2b-2b2b-2b2b-2b2b         -\n" in shown
    assert f"\n{' ' * 35}3c3c-3c3c-3c3c-3c3c-3c3c waits\n" in shown
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines()}
    assert "needs a decision 3c3c-3c3c-3c3c-3c3c-3c3c waits 2026-11-25" == lines["awaited"]
    assert "needs a decision 3c3c-3c3c-3c3c-3c3c-3c3c waits -" == lines["stranger"]
    assert ("accepted 2b2b-2b2b-2b2b-2b2b-2b2b -", "no data yet - -") == (lines["former"], lines["stolen"])
    assert "revoked on 2026-11-26 - -" == lines["given-up"]


def test_the_list_is_for_scripts_too(tmp_path: Path):
    """As JSON."""
    found = json.loads(Desk(tmp_path).run("list", "--json").output)
    assert ({THREE: 4}, [TWO]) == (found["waiting"]["replaced"], found["sites"]["replaced"]["keys"])


def test_one_site_is_shown_with_all_its_keys(tmp_path: Path):
    """One that nobody knows is an error."""
    desk = Desk(tmp_path)
    said = desk.run("show", "replaced").output
    assert f"key of an earlier installation   1a1a-1a1a-1a1a-1a1a-1a1a     {ONE}\n" in said
    assert (True, True) == (TWO in said, f"{THREE}, has signed 4 files" in said)
    assert (0, 2) == (desk.run("show", "stranger").exit_code, desk.run("show", "nobody").exit_code)


def test_a_key_is_named_by_its_code(tmp_path: Path):
    """As somebody reads it out; a code that nobody has sent is an error, a whole key is not."""
    desk = Desk(tmp_path)
    assert 0 == desk.run("accept", "replaced", "3C3C 3c3c 3c3c-3c3c:3c3c", "--replaces").exit_code
    assert ([THREE], "retired") == (
        desk_keys(desk, "replaced"),
        SiteRegistry(tmp_path / "sites.json").key_status("replaced", TWO),
    )
    assert 2 == desk.run("accept", "awaited", "4d4d-4d4d-4d4d-4d4d-4d4d").exit_code
    assert 2 == desk.run("accept", "awaited", "3c3c-3c3c").exit_code
    assert 0 == desk.run("accept", "awaited", "4d" * 32).exit_code
    assert 0 == desk.run("reject", "stranger", "3c3c-3c3c-3c3c-3c3c-3c3c").exit_code
    assert "rejected" == SiteRegistry(tmp_path / "sites.json").key_status("stranger", THREE)


def desk_keys(desk: Desk, site: str) -> list[str]:
    """Return the keys that speak for a site."""
    return SiteRegistry(desk.folder / "sites.json").keys(site)


def test_an_earlier_life_is_taken_and_does_not_speak(tmp_path: Path):
    """--former; it excludes --replaces."""
    desk = Desk(tmp_path)
    assert 2 == desk.run("accept", "awaited", THREE, "--former", "--replaces").exit_code
    assert 0 == desk.run("accept", "awaited", THREE, "--former").exit_code
    assert ([], "retired") == (
        desk_keys(desk, "awaited"),
        SiteRegistry(tmp_path / "sites.json").key_status("awaited", THREE),
    )


def test_a_site_is_given_up_and_taken_back(tmp_path: Path):
    """By name; one that nobody knows is an error."""
    desk = Desk(tmp_path)
    assert (0, []) == (desk.run("revoke", "former").exit_code, desk_keys(desk, "former"))
    assert 2 == desk.run("accept", "former", ONE).exit_code
    assert (0, [TWO]) == (desk.run("restore", "former").exit_code, desk_keys(desk, "former"))
    assert 2 == desk.run("revoke", "nobody").exit_code


def test_a_damaged_report_is_named(tmp_path: Path):
    """It is not taken for one in which nothing waits."""
    desk = Desk(tmp_path)
    for content in ("{", "[]", '{"waiting": [{"site": 1}]}', '{"waiting": 1}'):
        (tmp_path / "report.json").write_text(content)
        done = desk.run("list")
        assert (2, True) == (done.exit_code, "report.json is damaged" in " ".join(done.output.split()))


def test_the_command_accepts(tmp_path: Path):
    """By the folder of collect or by the file; both or neither is an error."""

    def invoke(*arguments: str) -> int:
        return CliRunner().invoke(app, ["sites", "accept", "shop-1", *arguments]).exit_code

    assert 0 == invoke(ONE, "--collected", str(tmp_path))
    assert 0 == invoke(TWO, "--sites", str(tmp_path / "sites.json"))
    assert [ONE, TWO] == SiteRegistry(tmp_path / "sites.json").keys("shop-1")
    assert 2 == invoke(ONE)
    assert 2 == invoke("1a", "--collected", str(tmp_path))
