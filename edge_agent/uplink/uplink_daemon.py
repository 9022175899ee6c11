"""`edge-agent serve uplink`: starts the uplink, runs it until told to stop, and releases its lock.

It reads the outbox and writes receipts, `incoming/` and its own notes, and nothing else: no state, spool or sockets of
the daemon. SIGTERM or SIGINT cancels the transfer under way; the store then has the whole upload or nothing, and a
download resumes later. A second signal stops at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import structlog

from edge_agent import __version__, logs, supervision
from edge_agent.config import Config
from edge_agent.errors import ConfigInvalid
from edge_agent.supervision import Component, DeathPolicy, RunWrapper, Supervisor, run_unwrapped
from edge_agent.uplink.exchange_dirs import ExchangeDirs, IncomingDir
from edge_agent.uplink.store_backends import open_examples_store, open_updates_store
from edge_agent.uplink.transfer_loop import TransferLoop, TransferTargets
from edge_agent.uplink.update_download import UpdateDownloader
from edge_agent.uplink.upload import UploadLog

STOP_SECONDS = 20.0
EXIT_FAILED = 1
"""systemd starts the daemon again (Restart=on-failure)."""

log = structlog.get_logger("edge_agent.uplink")


def uplink(config: Config, *, once: bool, wrap: RunWrapper = run_unwrapped) -> int:
    """Upload the outbox and fetch receipts and updates, until told to stop, or `once`; return the exit code.

    `wrap` wraps each component of the supervisor.

    Raises:
        SiteError: the configuration, the exchange directories or the credential cannot be used.
        CapacityError, ExchangeError, UpdateError, BundleError: with `once` only: not all transfers succeeded.
    """
    logs.configure(config.log)
    if not config.site.id:
        raise ConfigInvalid("site.id is not set", remedy="Set 'id' under 'site' in agent.yaml to the site's name.")
    targets = _open_targets(config)
    exchange = ExchangeDirs(config.site.id, config.outbox, config.receipts)
    with UploadLog(config.uplink_notes, targets.name) as upload_log:
        transfer_loop = TransferLoop(config.uplink, exchange, targets, upload_log) if targets.name else None
        if once and transfer_loop:
            asyncio.run(transfer_loop.once())
        elif not once:
            return EXIT_FAILED if asyncio.run(_serve(config, transfer_loop, targets.name, wrap)) else 0
    return 0


def _open_targets(config: Config) -> TransferTargets:
    repository = open_updates_store(config.uplink)
    updates = (
        UpdateDownloader(config.uplink, IncomingDir(config.incoming), config.wants, repository) if repository else None
    )
    targets = TransferTargets(open_examples_store(config.uplink), updates)
    if not targets.name and not config.escalation.url:
        message = "uplink.url is not set, nor are updates_url and escalation.url"
        raise ConfigInvalid(
            message, remedy="Set 'url' under 'uplink' in agent.yaml: s3://…, a folder …; or one of the others."
        )
    return targets


async def _serve(config: Config, transfer_loop: TransferLoop | None, name: str, wrap: RunWrapper) -> str:
    """Work until told to stop; return the component whose death ended it, if one did."""
    stop = asyncio.Event()
    supervision.stop_on_signals(stop)
    if transfer_loop:
        transfer_loop.publish(force=True)
    supervisor = Supervisor(stop.set, wrap=wrap)
    async with _escalation_service(config, supervisor):
        for component in components(transfer_loop):
            supervisor.add(component)
        supervisor.start()
        supervision.notify_systemd("READY=1")
        log.info("working", version=__version__, upstream=name)
        try:
            await stop.wait()
        finally:
            await supervisor.stop()
    supervision.announce_stop(STOP_SECONDS)
    log.info("stopped", failed=supervisor.failed_component)
    return supervisor.failed_component


def components(transfer_loop: TransferLoop | None) -> Iterator[Component]:
    """Yield the background components; `serve_escalations` adds the one of the large model."""
    if transfer_loop:
        stop = asyncio.Event()

        async def request_stop() -> None:
            stop.set()

        why = "its state in memory may be wrong then; its notes on the disk are not"
        yield Component("mirror", lambda: transfer_loop.run(stop), DeathPolicy.STOP, why, request_stop)
    if supervision.watchdog_seconds():
        why = "without its ping systemd kills the daemon: better it ends in order"
        # The ping shows only that the event loop runs.
        yield Component("watchdog", lambda: supervision.ping_watchdog(lambda _: True), DeathPolicy.STOP, why)


def _escalation_service(config: Config, supervisor: Supervisor) -> contextlib.AbstractAsyncContextManager[None]:
    """Serve questions for the large model if the site has one; otherwise do not load its client library."""
    if not config.escalation.url:
        return contextlib.nullcontext()
    from edge_agent.uplink.escalation.escalation_server import serve_escalations  # noqa: PLC0415 - see LATE_IMPORTS

    return serve_escalations(config, time.time, supervisor)
