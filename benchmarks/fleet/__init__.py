"""A fleet of simulated sites under a plan: people and networks are made up, what decides is the shipped code.

Sites decide with `edge_agent.formats.plan`, the central team with `convert.fleet.rollout_progress`, as in the field.
"""
