"""A tablet at the reception: each line of standard input is what a guest says, and the label comes back.

    python tablet.py unix:/run/edge-agent/inference.sock --review unix:/run/edge-agent/review.sock
    python tablet.py shop.example:9443 --tls tablet-1     # the folder that 'edge-agent certs issue' made

'= LABEL' corrects the last answer, '? TEXT' lets the assistant write, '# TEXT' asks every question of the desk. The
client does what daemon.js in the till does by hand: deadlines, RetryInfo, finding a daemon that was restarted, request
ids, streams that end when they are left.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.client import (
    Answer,
    AsyncClient,
    AsyncReviewClient,
    CallFailed,
    Classification,
    Decision,
    DecisionAnswer,
    Retry,
    Tls,
)


@dataclass
class Tablet:
    """What it asks, and what it was told last."""

    client: AsyncClient
    reviewer: AsyncReviewClient
    task: str
    assistant: str
    desk: str
    last_id: str = ""

    async def answer(self, line: str) -> str:
        """Do what a line says. Raises CallFailed."""
        if line.startswith("? "):
            stream = self.client.generate(self.assistant, line[2:])
            async for piece in stream:
                sys.stdout.write(piece)
            return degraded(stream.finish) if stream.finish else ""
        if line.startswith("= "):
            if not self.last_id:
                return "There is no answer to correct yet: say first what a guest says."
            await self.reviewer.correct(self.last_id, line[2:], reviewer="tablet")
            return "noted"
        if line.startswith("# "):
            [decision] = await self.client.decide(self.desk, [line[2:]], timeout_seconds=30)
            assert isinstance(decision, Decision)  # a request with one text fails as a whole
            return ", ".join(f"{each.question}: {graded(each, each.probabilities)}" for each in decision.answers)
        [said] = await self.client.classify(self.task, [line], timeout_seconds=30)
        assert isinstance(said, Classification)  # a request with one text fails as a whole
        self.last_id = said.prediction_id
        return graded(said, said.scores)

    async def run(self) -> None:
        """Answer every line."""
        async for line in lines():
            try:
                said = await self.answer(line)
            except CallFailed as failed:
                said = f"{failed.reason}: {failed.message}. {failed.remedy}"
            sys.stdout.write(f"{said}\n")
            sys.stdout.flush()


def graded(answer: Classification | DecisionAnswer, scores: Sequence[object]) -> str:
    """Say the label, how sure the model is of it, and what limits it. Without a label the model abstained."""
    # Where only a large model answers there are no scores. Unsure: let a person decide.
    sure = f" {answer.confidence:.2f}{' unsure' if answer.below_threshold else ''}" if scores else ""
    return f"{answer.label or 'no answer'}{sure}{degraded(answer)}"


def degraded(answer: Answer) -> str:
    """Say why an answer is less than it could be, e.g. computed on the processor instead of the GPU."""
    return f" (degraded: {', '.join(answer.degraded)})" if answer.degraded else ""


async def lines() -> AsyncIterator[str]:
    """Yield the lines of standard input without holding up the event loop."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.rstrip("\n")


async def main() -> None:
    """Read the arguments, connect, answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", default="unix:/run/edge-agent/inference.sock")
    parser.add_argument("--review", help="address of the review socket; left out: the same address")
    parser.add_argument("--tls", type=Path, help="folder with ca.crt, client.crt and client.key")
    parser.add_argument("--task", default="pos-intent")
    parser.add_argument("--assistant", default="assistant")
    parser.add_argument("--desk", default="front-desk")
    given = parser.parse_args()
    tls = Tls(given.tls / "ca.crt", given.tls / "client.crt", given.tls / "client.key") if given.tls else None
    try:
        client = AsyncClient(given.address, tls, retry=Retry())
        reviewer = AsyncReviewClient(given.review or given.address, tls, retry=Retry())
    except OSError as error:
        parser.error(f"--tls: {error}; name the folder that 'edge-agent certs issue' made")
    except ValueError as error:
        parser.error(str(error))  # an address without a port, or a path without unix:
    async with client, reviewer:
        await Tablet(client, reviewer, given.task, given.assistant, given.desk).run()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the thread that waits for a line would hold up Python's own Ctrl-C
    asyncio.run(main())
