"""`doctor` about the installed program and its units, with real links below another root and real output of
systemctl."""

from dataclasses import replace

import pytest

from edge_agent.doctor import unit_checks
from edge_agent.doctor.installation import Installation, run_command
from edge_agent.doctor.probe_context import parse_phase, parse_properties
from edge_agent.doctor.program_checks import ProgramFacts, ProgramLink, judge_program
from edge_agent.doctor.unit_checks import SERVE, UPLINK, UnitFacts
from tests.support.doctor_cases import link, looked, only, place, program, told, verdicts

RUNNING = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "NRestarts": "0",
    "WatchdogUSec": "1min",
    "MemoryMax": "4000000000",
    "MemoryCurrent": "1000000000",
    "NeedDaemonReload": "no",
    "MainPID": "42",
    "ExecMainStatus": "0",
    "Result": "success",
}
FAILED = {"ActiveState": "failed", "SubState": "failed"}


def unit(*, name: str = SERVE, wanted: bool = True, **changed: str):
    return list(unit_checks.judge_units((UnitFacts(name, wanted, {**RUNNING, **changed}),)))


def appliance(tmp_path, *versions: str) -> Installation:
    where = place(tmp_path)
    for version in versions:
        program(where.at(f"opt/edge-agent/venvs/{version}/bin/edge-agent"))
    where.at("opt/edge-agent/venvs").mkdir(parents=True, exist_ok=True)
    return where


def test_intact_installation_is_ok(tmp_path):
    """Links to two intact versions are ok; /usr/local/bin/edge-agent that points outside /opt/edge-agent is a
    warning."""
    where = appliance(tmp_path, "one", "two")
    link(where.at("opt/edge-agent/current"), "venvs/two")
    link(where.at("opt/edge-agent/previous"), "venvs/one")
    link(where.at("usr/local/bin/edge-agent"), str(where.at("opt/edge-agent/current/bin/edge-agent")))
    found = looked(where)
    assert ("ok", "ok", "warning") == tuple(
        found[name].verdict for name in ("installation", "previous-version", "command")
    )


def test_missing_current_version_is_a_fault_with_rollback(tmp_path):
    """If the current version's folder is missing and the previous one is intact, the remedy is the previous version's
    rollback."""
    where = appliance(tmp_path, "one")
    link(where.at("opt/edge-agent/current"), "venvs/two")
    link(where.at("opt/edge-agent/previous"), "venvs/one")
    found = looked(where)
    assert "fault" == found["installation"].verdict
    assert "sudo /opt/edge-agent/previous/bin/edge-agent-setup rollback" == found["installation"].command
    assert "fault" == found["command"].verdict


def test_missing_versions_need_the_installer(tmp_path):
    """Without a current version and with a broken link to the previous one, the remedy is to run the installer
    again."""
    where = appliance(tmp_path)
    link(where.at("opt/edge-agent/previous"), "venvs/gone")
    found = looked(where)
    assert ("fault", "sudo sh edge-agent-*-linux-x86_64.run") == (
        found["installation"].verdict,
        found["installation"].command,
    )
    assert "warning" == found["previous-version"].verdict


@pytest.mark.parametrize(
    ("python", "verdict", "remedy"),
    [
        pytest.param("#!/bin/sh\necho 3.11\n", "ok", "", id="its Python"),
        pytest.param("#!/bin/sh\necho 3.13\n", "warning", "Keep the current version", id="another Python"),
        pytest.param("", "warning", "Keep the current version", id="no Python"),
    ],
)
def test_previous_version_without_its_python_is_a_warning(tmp_path, python, verdict, remedy):
    """A previous version whose Python is missing or of another version, as after a system upgrade, is a warning,
    because a rollback would fail."""
    where = replace(appliance(tmp_path, "one", "two"), run=run_command)
    link(where.at("opt/edge-agent/current"), "venvs/two")
    link(where.at("opt/edge-agent/previous"), "venvs/one")
    before = where.at("opt/edge-agent/venvs/one")
    (before / "program.json").write_text('{"python": "3.11"}')
    if python:
        program(before / "bin/python")
        (before / "bin/python").write_text(python)
    found = looked(where)["previous-version"]
    assert (verdict, True) == (found.verdict, found.remedy.startswith(remedy))
    assert ("Python 3.11, which is gone" in found.seen) == (verdict == "warning")


def test_missing_previous_version_is_a_note(tmp_path):
    """An installation without a previous version is a note."""
    where = appliance(tmp_path, "one")
    link(where.at("opt/edge-agent/current"), "venvs/one")
    assert "note" == looked(where)["previous-version"].verdict


def test_packages_finding_has_their_versions(tmp_path):
    """The finding of the packages contains their versions."""
    found = looked(place(tmp_path))["packages"]
    assert ("ok", True) == (found.verdict, "onnxruntime 1." in found.seen)


@pytest.mark.parametrize(
    ("installed", "verdict", "command"),
    [(True, "fault", "sudo sh edge-agent-*-linux-x86_64.run"), (False, "note", "")],
)
def test_missing_package_is_a_fault_only_if_installed(tmp_path, installed, verdict, command):
    """A missing package is a fault of an installed program; of a clone, which has no llama.cpp for the quick demo, it
    is a note."""
    where, lost = ProgramLink(), {"llama_cpp_python": ""}
    facts = ProgramFacts("3.11", lost, str(tmp_path), "/opt/edge-agent", installed, where, where, where)
    found = next(iter(judge_program(facts)))
    assert ("packages", verdict, command) == (found.check, found.verdict, found.command)


def test_systemctl_properties_are_parsed():
    """Values of systemctl may contain an equals sign; lines without one are ignored."""
    assert {"Result": "success", "ExecStart": "{ a=b }"} == parse_properties("Result=success\nExecStart={ a=b }\n\n")


MOMENTS = [
    {"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "0", "ExecMainStatus": "1"},
    {"ActiveState": "activating", "SubState": "auto-restart-queued", "NRestarts": "0", "ExecMainStatus": "1"},
    {"ActiveState": "activating", "SubState": "start", "NRestarts": "1"},
    {"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "1", "ExecMainStatus": "1"},
    {"ActiveState": "activating", "SubState": "start-pre", "NRestarts": "2"},
    {"ActiveState": "failed", "SubState": "failed", "NRestarts": "2", "ExecMainStatus": "1"},
]
"""A unit that fails at each start, as systemd reports it from one moment to the next."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_unit_that_fails_at_each_start_is_never_starting(moment: dict[str, str]):
    """A unit that fails at each start is a fault both in the pause and while systemd restarts it."""
    properties = {**RUNNING, "Result": "exit-code" if "ExecMainStatus" in moment else "success", **moment}
    phase = parse_phase("\n".join(f"{key}={value}" for key, value in properties.items()))
    found = only(unit_checks.judge_units((UnitFacts(SERVE, True, properties, phase),)), "unit")
    assert ("", "fault", True) == (phase.name, found.verdict, " failed: " in found.seen)
    assert "sudo systemctl restart edge-agent.service" in found.command


def test_unit_started_by_a_person_is_starting():
    """A unit that starts with a restart count of zero is starting."""
    assert "starting" == parse_phase("ActiveState=activating\nSubState=start\nNRestarts=0\n").name


def test_running_unit_is_ok():
    """A unit that is active, enabled, watched and within its memory limit is ok."""
    assert {"ok"} == set(verdicts(unit()).values())


@pytest.mark.parametrize(
    ("check", "verdict", "changed"),
    [
        ("unit", "fault", {**FAILED, "Result": "exit-code", "ExecMainStatus": "3"}),
        ("unit", "fault", {**FAILED, "Result": "watchdog"}),
        ("unit", "fault", {**FAILED, "Result": "oom-kill"}),
        ("unit", "fault", {**FAILED, "Result": "start-limit-hit"}),
        ("unit", "fault", {**FAILED, "Result": "timeout"}),
        ("unit", "fault", {**FAILED, "Result": "signal", "ExecMainStatus": "4"}),
        ("unit", "fault", {**FAILED, "Result": "exit-code", "ExecMainStatus": "243"}),
        ("unit", "fault", {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}),
        ("unit", "fault", {"ActiveState": "activating", "SubState": "start", "NRestarts": "4"}),
        ("unit", "fault", {"ActiveState": "inactive", "SubState": "dead"}),
        ("unit", "fault", {"LoadState": "masked"}),
        ("unit", "fault", {"LoadState": "bad-setting"}),
        ("unit", "warning", {"ActiveState": "activating", "SubState": "start"}),
        ("start-at-boot", "warning", {"UnitFileState": "disabled"}),
        ("unit-files", "warning", {"NeedDaemonReload": "yes"}),
        ("unit-restarts", "warning", {"NRestarts": "3"}),
        ("watchdog", "warning", {"WatchdogUSec": "infinity"}),
        ("memory-limit", "note", {"MemoryMax": "infinity"}),
        ("memory-limit", "warning", {"MemoryCurrent": "3900000000"}),
    ],
)
def test_faulty_unit_has_a_verdict_and_a_command(check, verdict, changed):
    """Every faulty state of a unit has its verdict, a remedy and a command."""
    assert (verdict, True) == told(unit(**changed), check)


@pytest.mark.parametrize("needed", [True, False])
def test_remedy_of_a_masked_unit_starts_it_if_needed(needed):
    """The remedy of a masked unit enables and starts it if it is needed: 'systemctl unmask' also removes the link of
    'systemctl enable', and the installer starts no disabled unit."""
    [found] = [each for each in unit(wanted=needed, LoadState="masked") if each.check == "unit"]
    assert needed == found.command.endswith(f"; sudo systemctl enable --now {SERVE}")
    assert found.command.startswith(f"sudo systemctl unmask {SERVE}; sudo sh ")


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("watchdog", "did not answer the watchdog's trial request"),
        ("oom-kill", "memory was exhausted"),
        ("start-limit-hit", "ended too often in a row"),
        ("new-word-of-systemd", "ended with exit code 7"),
    ],
)
def test_unit_failure_is_explained_in_words(result, said):
    """The finding explains systemd's result in words; for an unknown result it has the exit code."""
    assert said in only(unit(**FAILED, Result=result, ExecMainStatus="7"), "unit").seen


@pytest.mark.parametrize("result", ["exit-code", "signal", "resources"])
def test_program_that_systemd_could_not_start_has_no_exit_code(result):
    """When a command before the program fails, systemd reports 0 as the exit code of a program that did not run."""
    found = only(unit(**FAILED, Result=result, ExecMainCode="0", ExecMainStatus="0"), "unit")
    assert found.seen == f"{SERVE} failed: systemd could not start its program"


@pytest.mark.parametrize(("restarts", "said"), [("1", "1 time"), ("3", "3 times")])
def test_restart_count_agrees_with_its_noun(restarts, said):
    """The finding of restarts has "1 time" or "3 times"."""
    assert only(unit(NRestarts=restarts), "unit-restarts").seen.endswith(f" {said}")


def test_stopped_uplink_without_a_store_is_ok():
    """A stopped and disabled uplink unit is ok if no store is configured."""
    found = unit(name=UPLINK, wanted=False, ActiveState="inactive", SubState="dead", UnitFileState="disabled")
    assert {"systemd": "ok", "unit": "ok"} == verdicts(found)


def test_machine_without_systemd_is_a_note(tmp_path):
    """A machine without systemd is a note."""
    assert "note" == looked(place(tmp_path))["systemd"].verdict


def test_units_are_judged_by_systemctl_output(tmp_path):
    """`doctor` judges both units by the output of systemctl; if systemctl does not answer, the check is unseen."""
    where = place(tmp_path, uplink={"url": "/mnt/central"})
    where.at("run/systemd/system").mkdir(parents=True)
    asked = []

    def run(command):
        asked.append(command[2])
        return "".join(f"{key}={value}\n" for key, value in RUNNING.items())

    said = Installation(where.config, root=where.root, run=run, find_user=where.find_user)
    assert ("ok", [SERVE, UPLINK]) == (
        looked(said)["unit"].verdict,
        [name for name in dict.fromkeys(asked) if name in (SERVE, UPLINK)],
    )
    assert "unseen" == looked(where)["systemd"].verdict
