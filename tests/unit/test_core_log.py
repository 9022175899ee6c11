"""edge_agent/core_log.py, in a process of its own: it changes standard error."""

from __future__ import annotations

import subprocess
import sys

HANDSHAKE = (
    "I1128 14:58:55.133199   32012 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "
    "error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired"
)
PROGRAM = """
import asyncio, os, sys
from edge_agent import core_log
log = core_log.CoreLog()
found = []
log.on_failed_handshake = found.append
{body}
log.close()
os.write(2, b"after\\n")
print(found)
"""


def run(body: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip(), done.stderr


def test_failed_handshakes_are_taken_out_of_standard_error() -> None:
    """What Python and other C code write passes; gRPC's own lines do not."""
    body = f"""
os.write(2, b"a traceback\\n")
os.write(2, {HANDSHAKE.encode()!r} + b"\\n")
os.write(2, b"E1128 14:58:55.133199   32012 chttp2.cc:1] anything\\n")
print("of Python", file=sys.stderr)
log.read()
os.write(2, b"no end of line")
"""
    assert ("['expired client certificate']", "of Python\na traceback\nno end of lineafter\n") == run(body)


def test_a_flood_blocks_nobody_and_is_read_in_part() -> None:
    """A writer that finds the pipe full loses its line: it does not wait for the event loop."""
    body = f"""
lost = 0
for _ in range(20_000):
    try:
        os.write(2, {HANDSHAKE.encode()!r} + b"\\n")
    except BlockingIOError:
        lost += 1
log.read()
found[:] = [len(found) + lost, lost > 0]
"""
    assert ("[20000, True]", "after\n") == run(body)


def test_a_long_line_is_passed_on_in_parts() -> None:
    """Memory for a line is bounded, and nothing of it is lost."""
    body = """
for _ in range(4):
    os.write(2, b"x" * 10_000)
    log.read()
"""
    assert ("[]", "x" * 40_000 + "after\n") == run(body)


def test_a_cancelled_reader_leaves_what_comes_later_to_close() -> None:
    """The component can end, and be started again."""
    body = f"""
async def play():
    for number in range(2):
        running = asyncio.create_task(log.run())
        await asyncio.sleep(0)
        os.write(2, {HANDSHAKE.encode()!r} + b"\\n")
        while len(found) <= number:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    os.write(2, {HANDSHAKE.encode()!r} + b"\\n")
asyncio.run(play())
"""
    body += "log.read()"
    found, _ = run(body)
    assert 3 == found.count("expired")
