"""What doctor looks at: each check says what it found and, unless all is well, what to do. Nothing is changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.filesize import decimal

from edge_agent import __version__
from edge_agent.client import CallFailed, Client, Engine, Status
from edge_agent.config import Config

Outcome = Literal["ok", "warn", "fail"]
CPUINFO = Path("/proc/cpuinfo")
FREE_BYTES_WANTED = 2 * 10**9
"""Room for a small model and the version before it."""
PACKAGES = ("llama_cpp_python", "onnxruntime", "tokenizers", "grpcio")
WANTED_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni")


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    outcome: Outcome
    said: str
    remedy: str = ""


def state_dir(config: Config) -> Check:
    """Look whether the state directory is there and can be written."""
    path = config.state_dir
    if not path.exists():
        parent = _nearest_existing(path)
        if os.access(parent, os.W_OK):
            return Check("state directory", "ok", f"{path} is not there yet; 'edge-agent serve' makes it")
        remedy = f"Make it and give it to the daemon's user, or let that user write {parent}."
        return Check("state directory", "fail", f"{path} is not there, and this user may not make it", remedy)
    if not path.is_dir():
        return Check("state directory", "fail", f"{path} is no directory", "Choose another --state-dir.")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        remedy = (
            "Run doctor as the daemon's user or with sudo; if the daemon may not write it either, change its owner."
        )
        return Check("state directory", "fail", f"{path} cannot be written by this user", remedy)
    return Check("state directory", "ok", f"{path} can be written")


def disk(config: Config) -> Check:
    """Look how much room the store has."""
    free = shutil.disk_usage(_nearest_existing(config.state_dir)).free
    said = f"{decimal(free)} free for bundles"
    remedy = "Free some space; 'edge-agent models' shows versions that 'edge-agent remove' can delete."
    if free < config.store.disk_reserve_bytes:
        return Check("disk", "fail", f"{said}, under the reserve of {decimal(config.store.disk_reserve_bytes)}", remedy)
    if free < FREE_BYTES_WANTED:
        return Check("disk", "warn", f"{said}; a new version may not fit", remedy)
    return Check("disk", "ok", said)


def _nearest_existing(path: Path) -> Path:
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def sockets(config: Config) -> Iterator[Check]:
    """Look for both sockets."""
    for path in (config.inference_socket, config.admin_socket):
        if path.is_socket():
            yield Check(path.name, "ok", f"{path} is there")
        else:
            yield Check(path.name, "fail", f"{path} is not there", "Start the daemon: 'edge-agent serve'.")


def health(client: Client) -> Check:
    """Ask the daemon whether it serves."""
    try:
        if client.serving():
            return Check("health", "ok", "the daemon serves")
        return Check(
            "health", "warn", "the daemon takes no new work", "It is stopping: start it again if it should not."
        )
    except CallFailed as error:
        return Check("health", "fail", error.message, error.remedy)


def daemon(status: Status) -> Iterator[Check]:
    """Judge what the daemon says of itself."""
    if status.agent_version == __version__:
        yield Check("version", "ok", f"edge-agent {__version__}")
    else:
        said = f"the daemon is {status.agent_version}, this command is {__version__}"
        yield Check("version", "warn", said, "Restart the daemon: stop it, then 'edge-agent serve'.")
    yield from map(_engine, status.engines)
    yield from filter(None, map(_confinement, status.engines))
    yield from filter(None, map(_device, status.engines))
    for task in status.tasks:
        if not task.ready:
            yield Check(f"task {task.name}", "fail", "does not answer", "Look at its engine above, or roll back.")
    if not status.tasks:
        yield Check("tasks", "warn", "nothing is installed", "'edge-agent install PATH' installs a bundle.")
    unsigned = [task.name for task in status.tasks if not task.signed]
    if unsigned:
        remedy = "Install signed bundles, and remove 'allow_unsigned' from agent.yaml."
        yield Check("signatures", "warn", f"without a verified signature: {', '.join(unsigned)}", remedy)


def _engine(engine: Engine) -> Check:
    name = f"engine {engine.name}"
    if engine.state == "READY" and not engine.problem:
        code = f", code for {engine.details['cpu_variant']} processors" if "cpu_variant" in engine.details else ""
        return Check(name, "ok", f"ready, {decimal(engine.resident_bytes)}, {engine.restarts} restarts{code}")
    said = f"{engine.state.lower().replace('_', ' ')}: {engine.problem or 'no reason given'}"
    if engine.state in ("READY", "STARTING", "STOPPING"):
        return Check(name, "warn", said, "Run doctor again in a minute.")
    return Check(name, "fail", said, "'edge-agent rollback TASK' goes back; the daemon's log tells more.")


def _device(engine: Engine) -> Check | None:
    """Judge where an engine computes; the CPU by choice is nothing to tell."""
    name = f"device of {engine.name}"
    if said := engine.shortfall:
        remedy = (
            "docs/devices.md says what each device needs; 'device: cpu' under 'engine' in agent.yaml ends the wish."
        )
        return Check(name, "warn", f"computes on {engine.device}: {said}", remedy)
    if engine.device in ("", "cpu"):
        return None
    layers, about = (engine.details.get(each, "unknown") for each in ("gpu_layers", "device_description"))
    return Check(name, "ok", f"{engine.device}, {about}; layers: {layers}")


def _confinement(engine: Engine) -> Check | None:
    """Judge what an engine's child reports; one that is not loaded reports nothing."""
    found = {name: engine.details[name] for name in ("seccomp", "landlock", "memory") if name in engine.details}
    if not found:
        return None
    name = f"confinement of {engine.name}"
    missing = [f"{measure}: {said}" for measure, said in found.items() if said != "on" and measure != "memory"]
    if missing:
        remedy = "Use a kernel with seccomp and Landlock (5.13 or newer); until then install only bundles you trust."
        return Check(name, "warn", "; ".join(missing), remedy)
    return Check(name, "ok", f"seccomp and landlock on; memory limit: {found.get('memory', 'unknown')}")


def packages() -> Iterator[Check]:
    """Look which libraries are installed, without loading them."""
    yield Check("python", "ok", platform.python_version())
    for name in PACKAGES:
        try:
            yield Check(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "fail", "is not installed", f"Install edge-agent again: it needs {name}.")


def cpu(cpuinfo: str, machine: str, cores: int) -> Check:
    """Judge the CPU by the text of /proc/cpuinfo."""
    if machine not in ("x86_64", "AMD64"):
        return Check("cpu", "ok", f"{machine}, {cores} cores")
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    found = [flag for flag in WANTED_CPU_FLAGS if flag in flags]
    if "avx2" in found:
        return Check("cpu", "ok", f"{machine}, {cores} cores, {', '.join(found)}")
    remedy = "Models run, but several times slower than on a CPU with AVX2."
    return Check("cpu", "warn", f"{machine}, {cores} cores, no AVX2", remedy)


def this_cpu() -> Check:
    """Judge this machine's CPU."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.exists() else ""
    return cpu(text, platform.machine(), os.cpu_count() or 1)
