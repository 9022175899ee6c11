"""The sites of the central team: who they are, what they run, and what people decided about their data.

site_registry.py     each site with the keys that it signs with
enrolment_file.py    the file that makes a machine a site
rollout_progress.py  who runs what the plan wants, who is on the way, where it failed, and whether to halt
accountability.py    the log of decisions about personal data

Sites decide by themselves, by the same rules (`edge_agent.formats.plan`); the central team only compares.
"""
