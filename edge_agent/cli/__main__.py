"""`python -m edge_agent.cli` is `edge-agent`."""

from edge_agent.cli import main

main()
