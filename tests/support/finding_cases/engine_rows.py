"""Rows of engines and of the active bundle: started, killed, without weights, without a gate."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import edge_agent
from edge_agent.client import Engine
from tests.support.bundles import echo_bundle, tiny_onnx_bundle
from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import TASK, WEIGHTS, FaultySite
from tests.support.finding_cases.update_rows import CLOCKS, with_clock

MAKER = "team that made the bundle"
OTHER = "other"
ADAPTER = b"a" * 512
SURE = {
    "policy": "threshold",
    "temperature": 1.0,
    "threshold": 0.0,
    "target_risk": 0.1,
    "delta": 0.1,
    "n": 100,
    "bound": 0.05,
    "coverage": 1.0,
}


def _engines(site: FaultySite) -> Sequence[Engine]:
    with site.daemon.admin() as admin:
        return admin.status().engines[:1]


def _child(site: FaultySite) -> int:
    """Return the process of the only engine."""
    site.until(lambda: any(engine.pid for engine in _engines(site)))
    [engine] = _engines(site)
    return engine.pid


def _await_state(site: FaultySite, state: str) -> None:
    site.until(lambda: any(engine.state == state for engine in _engines(site)))


def _kill_engine(site: FaultySite) -> None:
    os.kill(_child(site), signal.SIGKILL)
    site.until(lambda: any(engine.restarts for engine in _engines(site)))
    _await_state(site, "READY")


def _restart(site: FaultySite) -> None:
    site.restart()
    _await_state(site, "READY")


made("engine-restarts/warning/seen", by_hand=_restart)(_kill_engine)


@made("engine-restarts/note/seen", prepare=with_clock(), with_it=("clock-jump",), by_hand=lambda site: _next_day(site))
def killed_once_long_ago(site: FaultySite) -> None:
    """An engine died once, and the daemon has run for two days."""
    _kill_engine(site)
    CLOCKS[site.folder].jump(2 * 86_400)


def _next_day(site: FaultySite) -> None:
    CLOCKS[site.folder].jump(0)
    _restart(site)


def hold_while_starting(site: FaultySite) -> None:
    """Start the daemon again, and stop its engine's process before it is ready, as a slow disk does."""
    site.daemon.stop()
    site.daemon.start()
    os.kill(_child(site), signal.SIGSTOP)


def let_start(site: FaultySite) -> None:
    os.kill(_child(site), signal.SIGCONT)
    _await_state(site, "READY")
    site.until(lambda: "tasks" not in {each["check"] for each in site.everything()})


made("engine/note/", with_it=("tasks",), by_hand=let_start)(hold_while_starting)
made("tasks/note/movement", with_it=("engine",), by_hand=let_start)(hold_while_starting)


def _blob(site: FaultySite, content: bytes) -> Path:
    blobs = (site.daemon.state_dir / "blobs" / "sha256").rglob("?" * 64)
    return next(path for path in blobs if path.read_bytes() == content)


def _lose_weights(site: FaultySite) -> None:
    """Move the weights away and let the engine die: it cannot load again, and waits before it tries."""
    _lose(site, "BACKING_OFF")


def _lose_for_good(site: FaultySite) -> None:
    """Move the weights away and let the engine fail until the daemon gives it up."""
    _lose(site, "FAILED")


def _lose(site: FaultySite, state: str) -> None:
    path = _blob(site, WEIGHTS)
    path.rename(site.folder / "weights-away")
    (site.folder / "weights-place").write_text(str(path))
    os.kill(_child(site), signal.SIGKILL)
    _await_state(site, state)


def _bring_weights(site: FaultySite) -> None:
    (site.folder / "weights-away").rename((site.folder / "weights-place").read_text())
    _restart(site)


def _patient(_: Path) -> Mapping[str, Any]:
    return {"engine": {"load_failures_max": 100, "restart_seconds_first": 60}}


def _strict(_: Path) -> Mapping[str, Any]:
    return {"engine": {"load_failures_max": 1, "restart_seconds_first": 0.1}}


made("engine/fault/", settings=_patient, with_it=("tasks",), by_hand=_bring_weights)(_lose_weights)
made("engine/fault/-2", settings=_strict, with_it=("engine-restarts", "tasks"), by_hand=_bring_weights)(_lose_for_good)
made("tasks/fault/seen", settings=_strict, with_it=("engine-restarts", "engine"), by_hand=_bring_weights)(
    _lose_for_good
)


def _install(site: FaultySite, **more: Any) -> None:
    site.daemon.install(echo_bundle(site.folder / "another", TASK, version="1.1.0", confidence=SURE, **more))


@made("gate/note/seen", person=MAKER)
def bundle_without_a_gate(site: FaultySite) -> None:
    """Somebody installed a bundle with a threshold and without a gate."""
    _install(site)


@made("confidence/warning/seen", person=MAKER, with_it=("gate",))
def scores_that_vary(site: FaultySite) -> None:
    """The scores of a bundle depend on the batch on this machine, so that its threshold does not hold."""
    _install(site, task={"prompt": {"template": "!vary {input}"}})


def _starting(site: FaultySite) -> None:
    """Start the daemon, and stop its process once it has the lock, before it listens."""
    site.daemon.stop()
    lock = site.daemon.state_dir / "lock"
    lock.write_text("")
    site.daemon.process = subprocess.Popen(
        [*site.daemon.command(), "serve"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    site.until(lambda: lock.read_text().strip() != "")
    os.kill(site.daemon.process.pid, signal.SIGSTOP)


def _let_go(site: FaultySite) -> None:
    assert site.daemon.process is not None
    os.kill(site.daemon.process.pid, signal.SIGCONT)
    site.until(lambda: not {"daemon", "socket", "tasks"} & {each["check"] for each in site.everything()})


made("daemon/note/", by_hand=_let_go)(_starting)


def _older_program(site: FaultySite) -> None:
    """Run the daemon from a copy of the program that has another version; this one was installed meanwhile."""
    old = site.folder / "old"
    shutil.copytree(Path(edge_agent.__file__).parent, old / "edge_agent", ignore=shutil.ignore_patterns("__pycache__"))
    text = (old / "edge_agent" / "__init__.py").read_text().replace(edge_agent.__version__, "0.0.9")
    (old / "edge_agent" / "__init__.py").write_text(text)
    site.daemon.inside = ["env", "-C", str(old)]
    site.restart()
    site.daemon.inside = []


made("daemon-version/warning/seen")(_older_program)


def _install_encoder(site: FaultySite) -> None:
    site.daemon.install(tiny_onnx_bundle(site.folder / "tags", "extract"))
    _await_state(site, "READY")


def _compute_on(device: str | None) -> Callable[[FaultySite], None]:
    def choose(site: FaultySite) -> None:
        site.edit(engine={"device": device})
        site.restart()
        _await_state(site, "READY")

    return choose


made("device/warning/computes-on", has_task=False, prepare=_install_encoder, by_hand=_compute_on("cpu"))(
    _compute_on("cuda")
)


def _two_tasks_on_one_base(site: FaultySite) -> None:
    """Install a task whose two versions share the weights of the first task; the newer one has an adapter."""
    _kill_engine(site)  # that an engine was restarted is another finding
    for version, adapter in (("1.0.0", b""), ("1.1.0", ADAPTER)):
        bundle = site.folder / f"other-{version}"
        site.daemon.install(echo_bundle(bundle, OTHER, version=version, weights=WEIGHTS, adapter=adapter))


@made(
    "engine/warning/",
    prepare=_two_tasks_on_one_base,
    with_it=("tasks",),
    words={"TASK": OTHER},
)
def adapter_lost(site: FaultySite) -> None:
    """The disk lost the adapter of one of two bundles on a base, and the engine dies once more."""
    _blob(site, ADAPTER).unlink()
    os.kill(_child(site), signal.SIGKILL)
    site.until(lambda: any(_is_engine_warning(each) for each in site.everything()))


def _is_engine_warning(finding: Mapping[str, str]) -> bool:
    return (finding["check"], finding["verdict"]) == ("engine", "warning")
