"""A tablet at the reception: it reads a guest's message per line of standard input, and prints the label.

    python tablet.py unix:/run/edge-agent/inference.sock --review unix:/run/edge-agent/review.sock
    python tablet.py shop.example:9443 --tls tablet-1     # the folder that 'edge-agent certs issue' made

'= LABEL' corrects the last answer, '? TEXT' lets the assistant write, '# TEXT' asks all questions of the desk. The
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
    """The clients, the tasks, and the last answer's prediction_id."""

    client: AsyncClient
    reviewer: AsyncReviewClient
    task: str
    assistant: str
    desk: str
    last_id: str = ""

    async def answer(self, line: str) -> str:
        """Execute one line of input; return the output. Raises CallFailed."""
        if line.startswith("? "):
            stream = self.client.generate(self.assistant, line[2:])
            async for piece in stream:
                sys.stdout.write(piece)
            return degraded(stream.finish) if stream.finish else ""
        if line.startswith("= "):
            if not self.last_id:
                return "There is no answer to correct yet: enter a message first."
            await self.reviewer.correct(self.last_id, line[2:], reviewer="tablet")
            return "noted"
        if line.startswith("# "):
            [decision] = await self.client.decide(self.desk, [line[2:]], timeout_seconds=30)
            assert isinstance(decision, Decision)  # a request with one text fails as a whole
            return ", ".join(f"{each.question}: {graded(each, each.probabilities)}" for each in decision.answers)
        [answer] = await self.client.classify(self.task, [line], timeout_seconds=30)
        assert isinstance(answer, Classification)  # a request with one text fails as a whole
        self.last_id = answer.prediction_id
        return graded(answer, answer.scores)

    async def run(self) -> None:
        """Answer every line."""
        async for line in lines():
            try:
                output = await self.answer(line)
            except CallFailed as failed:
                output = f"{failed.reason}: {failed.message}. {failed.remedy}"
            sys.stdout.write(f"{output}\n")
            sys.stdout.flush()


def graded(answer: Classification | DecisionAnswer, scores: Sequence[object]) -> str:
    """Return the label, its confidence, and what limits it. Without a label the model abstained."""
    # The answer of a large model alone has no scores. If an answer is unsure, let a person decide.
    sure = f" {answer.confidence:.2f}{' unsure' if answer.below_threshold else ''}" if scores else ""
    return f"{answer.label or 'no answer'}{sure}{degraded(answer)}"


def degraded(answer: Answer) -> str:
    """Return why an answer is limited, e.g. because the CPU computed it instead of the GPU."""
    return f" (degraded: {', '.join(answer.degraded)})" if answer.degraded else ""


async def lines() -> AsyncIterator[str]:
    """Yield the lines of standard input without blocking the event loop."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.rstrip("\n")


async def main() -> None:
    """Read the arguments, connect, answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", default="unix:/run/edge-agent/inference.sock")
    parser.add_argument("--review", help="address of the review socket; default: the same address")
    parser.add_argument("--tls", type=Path, help="folder with ca.crt, client.crt and client.key")
    parser.add_argument("--task", default="pos-intent")
    parser.add_argument("--assistant", default="assistant")
    parser.add_argument("--desk", default="front-desk")
    arguments = parser.parse_args()
    tls = (
        Tls(arguments.tls / "ca.crt", arguments.tls / "client.crt", arguments.tls / "client.key")
        if arguments.tls
        else None
    )
    try:
        client = AsyncClient(arguments.address, tls, retry=Retry())
        reviewer = AsyncReviewClient(arguments.review or arguments.address, tls, retry=Retry())
    except OSError as error:
        parser.error(f"--tls: {error}; name the folder that 'edge-agent certs issue' made")
    except ValueError as error:
        parser.error(str(error))  # an address without a port, or a path without unix:
    async with client, reviewer:
        await Tablet(client, reviewer, arguments.task, arguments.assistant, arguments.desk).run()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the thread that reads a line would delay Python's own Ctrl-C
    asyncio.run(main())
