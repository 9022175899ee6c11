"""The web console and the HTTP gateway: a process of its own, and a gRPC client of the daemon like any other.

console_server.py   the process that listens, with TLS, its access token, its routes, signing in
request_guard.py    what every request passes: who sends it, what proves that, what it may do
overview_page.py    the first page: the daemon's health in one sentence, the figures and charts of each task
review_page.py      people confirm or correct answers
redaction_page.py   people try redaction, and judge what it missed
daemon_access.py    connections to the daemon
rendering.py        templates
gateway/            tasks over HTTP, for clients of OpenAI's API and of System One

It loads no model, opens none of the daemon's files, and connects to the daemon only. Two limits decide what a principal
sees: the principal's roles, and the sockets that this process may use.
"""
