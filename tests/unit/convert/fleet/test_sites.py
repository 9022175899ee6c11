"""The registry of sites: accepted, retired, rejected and awaited keys, revoked sites, and the commands that decide on
them."""

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


def test_accepted_keys_of_a_site_are_kept_once(tmp_path: Path):
    """Each accepted key is stored once for its site, and other sites do not get it."""
    path = tmp_path / "sites.json"
    for key in (ONE, TWO, ONE):
        SiteRegistry(path).accept("shop-1", key)
    assert ([ONE, TWO], []) == (SiteRegistry(path).keys("shop-1"), SiteRegistry(path).keys("shop-2"))


@pytest.mark.parametrize(("site", "key"), [("Shop 1", ONE), ("", ONE), ("shop-1", "1a"), ("shop-1", ONE.upper())])
def test_invalid_site_name_or_key_is_refused(tmp_path: Path, site: str, key: str):
    """An invalid site name or key is refused and no registry is written."""
    with pytest.raises(InvalidRequest):
        SiteRegistry(tmp_path / "sites.json").accept(site, key)
    assert not (tmp_path / "sites.json").exists()


def test_folder_in_place_of_a_registry_is_refused(tmp_path: Path):
    """A folder given as --sites is refused, because it would otherwise look like a fleet without sites."""
    with pytest.raises(ManifestInvalid, match="is not a file"):
        SiteRegistry(tmp_path)
    done = CliRunner().invoke(app, ["sites", "list", "--sites", str(tmp_path)])
    assert (2, True) == (done.exit_code, "sites.json" in done.output), done.output


def test_missing_registry_is_noted(tmp_path: Path):
    """`sites list` notes a registry file that does not exist, because the folder may be mistyped."""
    done = CliRunner().invoke(app, ["sites", "list", "--json", "--collected", str(tmp_path / "colected")])
    assert (0, {"sites": {}, "waiting": {}}) == (done.exit_code, json.loads(done.stdout))
    assert f"note: {tmp_path / 'colected' / 'sites.json'} does not exist yet" in done.stderr


@pytest.mark.parametrize("content", ["", "{", '{"schema": "edge-agent/sites/v2"}', '{"sites": {"a": {"keys": []}}}'])
def test_damaged_registry_is_an_error(tmp_path: Path, content: str):
    """A damaged registry is an error and is not read as an empty one, which would trust any key."""
    (tmp_path / "sites.json").write_text(content)
    with pytest.raises(ManifestInvalid, match=r"sites\.json"):
        SiteRegistry(tmp_path / "sites.json")


@pytest.mark.parametrize("name", ["sites.json", "fleet.json"])
def test_printed_command_accepts_the_key(tmp_path: Path, name: str):
    """The command that an objection prints can be run as it is: it names the folder of collect or the registry file,
    and accepts the key."""
    path = tmp_path / "a folder" / name
    path.parent.mkdir()
    SiteRegistry(path).accept("shop-1", ONE)
    printed = SiteRegistry(path).objection("shop-1", TWO).partition("'edge-convert ")[2].removesuffix("'")
    done = CliRunner().invoke(app, shlex.split(printed))
    assert (0, [ONE, TWO]) == (done.exit_code, SiteRegistry(path).keys("shop-1"))


def test_first_key_of_a_site_is_stored_immediately(tmp_path: Path):
    """The first key of a site is stored when it is trusted, so another key is refused even after a crash."""
    trust = SiteKeyTrust(SiteRegistry(tmp_path / "sites.json"), registered_only=False)
    assert "" == trust.objection("shop-1", ONE)
    again = SiteKeyTrust(SiteRegistry(tmp_path / "sites.json"), registered_only=False)
    assert ("", True) == (again.objection("shop-1", ONE), "another key" in again.objection("shop-1", TWO))


def test_decisions_made_during_collect_are_kept(tmp_path: Path):
    """If a site is revoked and a key rejected after collect read the registry, the first key of another site is stored
    next to these decisions and the rejected key is not trusted."""
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
def test_concurrent_registry_changes_are_all_kept(tmp_path: Path):
    """Three processes that accept keys at the same time do not overwrite each other's entries."""
    code = (
        "import sys; from pathlib import Path; from convert.fleet.site_registry import SiteRegistry\n"
        "for number in range(20): SiteRegistry(Path(sys.argv[1])).accept(f'{sys.argv[2]}-{number}', 64 * 'a')"
    )
    names = ("shop", "bar", "clinic")
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "sites.json", name]) for name in names]
    assert [0, 0, 0] == [each.wait(120) for each in running]
    assert 60 == len(SiteRegistry(tmp_path / "sites.json").names())


def test_decision_is_refused_if_it_cannot_be_logged(tmp_path: Path):
    """If the accountability log cannot be written, a key is not accepted."""
    (tmp_path / accountability.FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="accountability"):
        SiteRegistry(tmp_path / "sites.json").accept("shop-1", ONE)
    assert [] == SiteRegistry(tmp_path / "sites.json").every_name()


def test_key_above_the_limit_of_100_is_refused(tmp_path: Path):
    """A site can have 100 keys; one more is refused, and neither stored nor logged."""
    path = tmp_path / "sites.json"
    full = {"schema": "edge-agent/sites/v1", "sites": {"shop-1": {"keys": [f"{number:064x}" for number in range(100)]}}}
    path.write_text(json.dumps(full))
    with pytest.raises(InvalidRequest, match="shop-1 would have 101 keys"):
        SiteRegistry(path).accept("shop-1", ONE)
    assert (100, []) == (len(SiteRegistry(path).keys("shop-1")), accountability.entries(tmp_path))


def test_folder_of_a_new_registry_is_private(tmp_path: Path):
    """The folder of a new registry is created with mode 0700."""
    SiteRegistry(tmp_path / "collected" / "sites.json").issue("shop-1", enrolment())
    assert 0o700 == stat.S_IMODE((tmp_path / "collected").stat().st_mode)


def enrolment(number: int = 1) -> EnrolmentRecord:
    """Return the registry's record of an enrolment file."""
    return EnrolmentRecord(sha256=f"{number:064x}", issued_at="2026-11-25T10:00:00Z", expires_at="2026-12-25T10:00:00Z")


def registry(path: Path) -> SiteRegistry:
    """Return a registry with a site in each state."""
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
def test_key_status_follows_the_decisions(tmp_path: Path, site: str, key: str, standing: KeyStatus):
    """The status of a key follows the decisions on key and site; only a current key is trusted, and a retired one only
    for sealed data."""
    sites = registry(tmp_path)
    assert standing == sites.key_status(site, key)
    assert (standing == "current") == (key in sites.keys(site))
    trust = SiteKeyTrust(sites, registered_only=True)
    assert ("" == trust.objection(site, key)) == (standing == "current")
    assert ("" == trust.objection_to_sealed(site, key)) == (standing in ("current", "retired"))


def test_first_key_of_an_enrolled_site_is_not_trusted(tmp_path: Path):
    """For a site with an enrolment file no key is trusted on first use: each key waits for a decision, with a count of
    its files."""
    trust = SiteKeyTrust(registry(tmp_path), registered_only=False)
    for key in (ONE, ONE, TWO):
        assert "not accepted yet" in trust.objection("awaited", key)
    assert ({}, {("awaited", ONE): 2, ("awaited", TWO): 1}) == (trust.pinned, trust.waiting)


def test_decisions_on_keys_and_sites_can_be_reversed(tmp_path: Path):
    """A rejected or retired key can be accepted again, and a key of a revoked site after the site is restored."""
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


def test_revoked_site_is_not_expected_to_report(tmp_path: Path):
    """A revoked site is in the list of all sites, but not in the list of expected ones."""
    sites = registry(tmp_path)
    assert {"given-up"} == set(sites.every_name()) - set(sites.names())


def test_registry_is_rewritten_only_for_changes(tmp_path: Path):
    """A change keeps all other entries and the last 20 enrolment files of a site; a decision that changes nothing does
    not write the file."""
    sites = registry(tmp_path)
    before = (tmp_path / "sites.json").stat().st_ino
    sites.accept("former", TWO)
    assert before == (tmp_path / "sites.json").stat().st_ino
    for number in range(30):
        sites.issue("awaited", enrolment(number))
    assert 20 == len(SiteRegistry(tmp_path / "sites.json").entry("awaited").kits)
    assert [TWO] == SiteRegistry(tmp_path / "sites.json").keys("former")


class SitesCommands:
    """The `sites` commands on a registry and a report of collect."""

    def __init__(self, folder: Path) -> None:
        registry(folder)
        self.folder = folder
        waiting = [{"site": site, "key": THREE, "documents": 4} for site in ("awaited", "replaced", "stranger")]
        waiting.append({"site": "stolen", "key": ONE, "documents": 1})  # decided since
        (folder / "report.json").write_text(json.dumps({"waiting": waiting}))

    def run(self, *arguments: str) -> Result:
        """Run a command."""
        return CliRunner().invoke(app, ["sites", *arguments, "--collected", str(self.folder)])


def test_sites_list_shows_keys_that_wait(tmp_path: Path):
    """`sites list` shows a line for each site with its state, and the codes of accepted and waiting keys."""
    shown = SitesCommands(tmp_path).run("list").output
    assert "\nreplaced   needs a decision        2b2b-2b2b-2b2b-2b2b-2b2b         -\n" in shown
    assert f"\n{' ' * 35}3c3c-3c3c-3c3c-3c3c-3c3c waits\n" in shown
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines()}
    assert "needs a decision 3c3c-3c3c-3c3c-3c3c-3c3c waits 2026-11-25" == lines["awaited"]
    assert "needs a decision 3c3c-3c3c-3c3c-3c3c-3c3c waits -" == lines["stranger"]
    assert ("accepted 2b2b-2b2b-2b2b-2b2b-2b2b -", "no data yet - -") == (lines["former"], lines["stolen"])
    assert "revoked on 2026-11-26 - -" == lines["given-up"]


def test_sites_list_as_json(tmp_path: Path):
    """`sites list --json` has the keys of each site and the waiting keys with their number of files."""
    found = json.loads(SitesCommands(tmp_path).run("list", "--json").output)
    assert ({THREE: 4}, [TWO]) == (found["waiting"]["replaced"], found["sites"]["replaced"]["keys"])


def test_sites_show_lists_all_keys_of_a_site(tmp_path: Path):
    """`sites show` lists current, retired and waiting keys of a site, and exits with 2 for an unknown site."""
    desk = SitesCommands(tmp_path)
    said = desk.run("show", "replaced").output
    assert f"key of an earlier installation   1a1a-1a1a-1a1a-1a1a-1a1a     {ONE}\n" in said
    assert (True, True) == (TWO in said, f"{THREE}, has signed 4 files" in said)
    assert (0, 2) == (desk.run("show", "stranger").exit_code, desk.run("show", "nobody").exit_code)


def test_key_can_be_given_by_its_code(tmp_path: Path):
    """accept and reject take the code of a waiting key, in any spelling, or a whole key; a code that no site sent is
    refused."""
    desk = SitesCommands(tmp_path)
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


def desk_keys(desk: SitesCommands, site: str) -> list[str]:
    """Return the current keys of a site."""
    return SiteRegistry(desk.folder / "sites.json").keys(site)


def test_accept_former_stores_a_retired_key(tmp_path: Path):
    """`sites accept --former` stores a key of an earlier installation as retired, and excludes --replaces."""
    desk = SitesCommands(tmp_path)
    assert 2 == desk.run("accept", "awaited", THREE, "--former", "--replaces").exit_code
    assert 0 == desk.run("accept", "awaited", THREE, "--former").exit_code
    assert ([], "retired") == (
        desk_keys(desk, "awaited"),
        SiteRegistry(tmp_path / "sites.json").key_status("awaited", THREE),
    )


def test_sites_revoke_and_restore(tmp_path: Path):
    """`sites revoke` removes a site's current keys and blocks new ones, `sites restore` brings them back, and an
    unknown site is refused."""
    desk = SitesCommands(tmp_path)
    assert (0, []) == (desk.run("revoke", "former").exit_code, desk_keys(desk, "former"))
    assert 2 == desk.run("accept", "former", ONE).exit_code
    assert (0, [TWO]) == (desk.run("restore", "former").exit_code, desk_keys(desk, "former"))
    assert 2 == desk.run("revoke", "nobody").exit_code


def test_damaged_report_is_an_error(tmp_path: Path):
    """`sites list` refuses a damaged report.json instead of showing that no key waits."""
    desk = SitesCommands(tmp_path)
    for content in ("{", "[]", '{"waiting": [{"site": 1}]}', '{"waiting": 1}'):
        (tmp_path / "report.json").write_text(content)
        done = desk.run("list")
        assert (2, True) == (done.exit_code, "report.json is damaged" in " ".join(done.output.split()))


def test_sites_accept_needs_one_registry(tmp_path: Path):
    """`sites accept` takes the folder of collect or the registry file, and refuses a call with neither or with an
    invalid key."""

    def invoke(*arguments: str) -> int:
        return CliRunner().invoke(app, ["sites", "accept", "shop-1", *arguments]).exit_code

    assert 0 == invoke(ONE, "--collected", str(tmp_path))
    assert 0 == invoke(TWO, "--sites", str(tmp_path / "sites.json"))
    assert [ONE, TWO] == SiteRegistry(tmp_path / "sites.json").keys("shop-1")
    assert 2 == invoke(ONE)
    assert 2 == invoke("1a", "--collected", str(tmp_path))
