"""`edge-agent limits`: the memory limit of the systemd unit."""

import pytest
from typer.testing import CliRunner

from edge_agent.cli import app
from edge_agent.cli.config import PROGRAM_BYTES, plan_memory
from edge_agent.config import Config

GIB = 2**30
QUARTER = GIB // 4


def config(engines: int) -> Config:
    """A configuration whose daemon needs a quarter of a gibibyte in addition to its program."""
    return Config.model_validate(
        {
            "engine": {"memory_bytes_max": engines, "memory_reserve_bytes": QUARTER},
            "service": {"calls_max": 15, "message_bytes_max": QUARTER // 16},
            "examples": {"queue_bytes_max": QUARTER // 16},
        }
    )


@pytest.mark.parametrize(
    ("engines", "machine", "memory_max"),
    [
        (2 * GIB, 8 * GIB, 2 * GIB + QUARTER + QUARTER + PROGRAM_BYTES),
        (0, 8 * GIB, 8 * GIB - QUARTER),
        (32 * GIB, 8 * GIB, 8 * GIB - QUARTER),
        (0, QUARTER, QUARTER // 2),
    ],
    ids=["engines and daemon", "machine less reserve", "engines over machine", "tiny machine"],
)
def test_memory_limit_covers_engines_daemon_and_reserve(engines: int, machine: int, memory_max: int):
    """The unit's limit covers the engines' configured memory, the daemon and the reserve, and leaves the machine its
    reserve."""
    assert memory_max == plan_memory(config(engines), machine).memory_max


def test_engines_can_use_all_their_configured_memory():
    """The unit's limit less the reserve and the daemon's share equals `engine.memory_bytes_max`."""
    plan = plan_memory(config(2 * GIB), 8 * GIB)
    assert 2 * GIB == plan.memory_max - plan.reserve - plan.daemon


def test_limits_prints_each_share_in_readable_units(tmp_path):
    """`edge-agent limits` prints the engines' share in MB."""
    path = tmp_path / "agent.yaml"
    path.write_text("engine: {memory_bytes_max: 500000000}")
    result = CliRunner().invoke(app, ["--config", str(path), "limits"])
    shown = [line.split() for line in result.output.splitlines()]
    assert (0, ["engines", "500.0", "MB"]) == (result.exit_code, shown[1]), result.output


def test_limits_apply_without_systemctl_ends_with_3(tmp_path, monkeypatch):
    """`edge-agent limits --apply` without systemctl ends with 3 and the remedy to run it as root."""
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(app, ["limits", "--apply"])
    assert (3, True) == (result.exit_code, "what to do: Run the command as root" in result.stderr), result.output


SYSTEMCTL = """\
#!/bin/sh
echo "$1" >> {folder}/asked
case "$1" in
  show) cat {folder}/changed ;;
  set-property) echo {after} > {folder}/changed ;;
  daemon-reload) echo no > {folder}/changed ;;
esac
"""


@pytest.mark.parametrize(
    ("before", "after", "reloads"), [("no", "no", 0), ("no", "yes", 1), ("yes", "yes", 0)], ids=["257", "252", "edited"]
)
def test_limits_apply_reloads_systemd_only_for_its_own_change(tmp_path, monkeypatch, before, after, reloads):
    """`limits --apply` runs daemon-reload only if its own drop-in made the unit look changed, as systemd 252 does;
    changes that were there before are left to their author."""
    program = tmp_path / "systemctl"
    program.write_text(SYSTEMCTL.format(folder=tmp_path, after=after))
    program.chmod(0o755)
    (tmp_path / "changed").write_text(f"{before}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert 0 == CliRunner().invoke(app, ["limits", "--apply"]).exit_code
    asked = (tmp_path / "asked").read_text().split()
    assert ("set-property" in asked, reloads) == (True, asked.count("daemon-reload"))
