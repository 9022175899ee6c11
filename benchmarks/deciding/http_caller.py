"""Asks a daemon over gRPC and its gateway over HTTP by turns, in a process of its own; prints the seconds of each call.

    python -m benchmarks.deciding.http_caller < PLAN

PLAN is JSON: `socket` of the daemon, `address` and `token` of the gateway, `calls` by name, and `turns`. A call is
`{"path", "body"}` for HTTP on one kept connection, or `{"method", "task"}` for gRPC by the Python client.
"""

from __future__ import annotations

import functools
import http.client
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from edge_agent.client import Client

OK = 200
SECONDS_MAX = 60.0
WARM_TURNS = 50
TEXT = "I would like to return this kettle, it broke after a week and I need another one today"


def main() -> None:
    """Let each call have its turn, beginning with another one each time, and print what each took."""
    plan = json.load(sys.stdin)
    connection = http.client.HTTPConnection(plan["address"], timeout=SECONDS_MAX)
    headers = {"Authorization": f"Bearer {plan['token']}", "Content-Type": "application/json"}
    with Client(plan["socket"]) as client:
        calls: dict[str, Callable[[], object]] = {}
        for name, call in plan["calls"].items():
            if "path" in call:
                calls[name] = functools.partial(_post, connection, call["path"], json.dumps(call["body"]), headers)
            else:
                calls[name] = functools.partial(getattr(client, call["method"]), call["task"], [TEXT])
        taken: dict[str, list[float]] = {name: [] for name in calls}
        names = list(calls)
        for turn in range(WARM_TURNS + plan["turns"]):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                began = time.perf_counter()
                calls[name]()
                if turn >= WARM_TURNS:
                    taken[name].append(time.perf_counter() - began)
    connection.close()
    json.dump(taken, sys.stdout)


def _post(connection: http.client.HTTPConnection, path: str, body: str, headers: dict[str, str]) -> Any:
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status == OK, answer
    return answer


if __name__ == "__main__":
    main()
