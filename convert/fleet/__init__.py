"""What the sites say of the plan: who runs what it wants, who is on the way, where it failed, and whether to halt.

    heard = statuses.read(sources, sites)
    report = progress.report(plan, heard, now)

Sites decide by themselves, by the same rules (`edge_agent.formats.plan`); the central team only compares.
"""
