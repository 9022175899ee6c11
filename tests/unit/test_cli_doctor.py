"""doctor: what it checks, what it says."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app, checks
from edge_agent.client import AdminClient, Client, Status
from edge_agent.config import Config, StoreConfig
from tests.fake_daemon import FakeDaemon


def doctor(tmp_path: Path, *more: str):
    config = tmp_path / "agent.yaml"
    if not config.exists():
        config.write_text("")
    options = ["--config", str(config), "--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path)]
    return CliRunner().invoke(app, [*options, "doctor", *more])


def outcomes(tmp_path: Path) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in json.loads(doctor(tmp_path, "--json").stdout)}


def judged(status: Status) -> dict[str, str]:
    return {check.name: check.outcome for check in checks.daemon(status)}


@pytest.fixture
def status_of(tmp_path: Path):
    """Return how the client reads a fake daemon's status."""

    def read(daemon: FakeDaemon) -> Status:
        with daemon, AdminClient(daemon.targets[0]) as admin:
            return admin.status()

    return read


def test_without_a_daemon_it_fails_and_says_how_to_start_one(tmp_path):
    """Missing sockets are problems with a remedy; the exit code is 1."""
    result = doctor(tmp_path)
    assert 1 == result.exit_code
    assert "what to do: Start the daemon" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("2 to mend")


def test_with_a_healthy_daemon_it_ends_with_0(tmp_path):
    """Warnings, here the missing signature, leave the exit code at 0."""
    with FakeDaemon(f"unix:{tmp_path}/inference.sock", f"unix:{tmp_path}/admin.sock"):
        result = doctor(tmp_path)
        found = outcomes(tmp_path)
    assert (0, "ok", "ok", "warn") == (
        result.exit_code,
        found["health"],
        found["engine echo-1234"],
        found["signatures"],
    )


def test_a_wrong_configuration_is_a_finding(tmp_path):
    """doctor reports it like everything else and still checks the machine."""
    (tmp_path / "agent.yaml").write_text("stor: {}")
    found = outcomes(tmp_path)
    assert ("fail", "ok") == (found["configuration"], found["python"])


def test_a_stale_socket_is_told_from_a_living_daemon(tmp_path):
    """A socket file that nobody listens on is not enough."""
    with FakeDaemon(f"unix:{tmp_path}/inference.sock") as daemon:
        target = daemon.targets[0]
    with Client(target) as client:
        check = checks.health(client)
    assert ("fail", True) == (check.outcome, "Is edge-agent running?" in check.remedy)


def test_engines_and_tasks_are_judged(status_of):
    """A failed engine is a problem, a starting one worth a look, a task that does not answer a problem."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.engines[0].state = 4
    daemon.admin.status.engines.add(name="onnx-5678", state=1)
    daemon.admin.status.tasks[0].ready = False
    daemon.admin.status.agent_version = "0.0.9"
    assert {
        "version": "warn",
        "engine echo-1234": "fail",
        "engine onnx-5678": "warn",
        "task pos-intent": "fail",
        "signatures": "warn",
    } == judged(status_of(daemon))


def test_the_processor_code_of_an_engine_is_named(status_of):
    """doctor says for which kind of processor llama.cpp computes."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.engines[0].details["cpu_variant"] = "zen4"
    [engine] = [check for check in checks.daemon(status_of(daemon)) if check.name == "engine echo-1234"]
    assert engine.said.endswith("code for zen4 processors")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, []),
        ({"fallback": "cuda is not used: no device"}, [("warn", "computes on cpu: cuda is not used: no device")]),
        ({"device": "vulkan:0", "partial": "12 of 31 fit"}, [("warn", "computes on vulkan:0: 12 of 31 fit")]),
        ({"device": "vulkan:0"}, [("ok", "vulkan:0, a card; layers: 31 of 31")]),
    ],
)
def test_where_an_engine_computes_is_judged(status_of, fields, found):
    """The CPU by choice is nothing to tell; a device is named with its layers, one that is missed is a warning."""
    daemon = FakeDaemon("127.0.0.1:0")
    engine = daemon.admin.status.engines[0]
    engine.details.update(gpu_layers="31 of 31", device_description="a card")
    for name, value in fields.items():
        setattr(engine, name, value)
    every = checks.daemon(status_of(daemon))
    assert found == [(check.outcome, check.said) for check in every if check.name == "device of echo-1234"]


def test_an_empty_daemon_is_worth_a_look(status_of):
    """Nothing installed is a warning."""
    daemon = FakeDaemon("127.0.0.1:0")
    daemon.admin.status.ClearField("tasks")
    assert "warn" == judged(status_of(daemon))["tasks"]


@pytest.mark.parametrize(
    ("outcome", "cpuinfo", "machine"),
    [
        ("ok", "flags\t\t: fpu avx2 avx512f\n", "x86_64"),
        ("warn", "flags\t\t: fpu sse4_2\n", "x86_64"),
        ("warn", "", "x86_64"),
        ("ok", "Features\t: fp asimd\n", "aarch64"),
    ],
)
def test_an_old_x86_cpu_is_a_warning(outcome, cpuinfo, machine):
    """Without AVX2 models are slow, but they run."""
    assert outcome == checks.cpu(cpuinfo, machine, 2).outcome


def test_the_state_directory_is_judged(tmp_path):
    """There and writable, not there yet, or no directory at all."""
    (tmp_path / "file").write_text("")
    found = [checks.state_dir(Config(state_dir=tmp_path / name)).outcome for name in ("", "new/deep", "file")]
    assert ["ok", "ok", "fail"] == found


def test_a_full_disk_is_a_problem(tmp_path):
    """Below the configured reserve nothing can be installed."""
    full = Config(state_dir=tmp_path, store=StoreConfig(disk_reserve_bytes=2**62))
    assert "fail" == checks.disk(full).outcome


def test_every_library_is_looked_up_without_loading_it():
    """The versions come from the metadata of the installation."""
    assert {"python", *checks.PACKAGES} == {check.name for check in checks.packages()}


@pytest.mark.parametrize(
    ("details", "outcome"),
    [
        ({"seccomp": "on", "landlock": "on", "memory": "no limit is set"}, "ok"),
        ({"seccomp": "on", "landlock": "the kernel has no Landlock", "memory": "on"}, "warn"),
    ],
)
def test_what_the_kernel_lacks_is_said(tmp_path, status_of, details, outcome):
    """An engine that is not confined is a warning that names the measure."""
    daemon = FakeDaemon(f"unix:{tmp_path}/a.sock")
    daemon.admin.status.engines[0].details.update(details)
    status = status_of(daemon)
    assert outcome == judged(status)["confinement of echo-1234"]
    said = {check.name: check.said for check in checks.daemon(status)}["confinement of echo-1234"]
    assert ("the kernel has no Landlock" in said) == (outcome == "warn")
