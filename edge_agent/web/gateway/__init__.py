"""The gateway: tasks over HTTP, for clients of OpenAI's API and of System One; docs/gateway.md is for callers.

It translates a request into a call of `edge_agent.v1`, and the answer into OpenAI's JSON; the daemon decides limits,
routing, capture, confidence and errors. It refuses an unknown member by its name. The request guard authenticates the
caller before.
"""
