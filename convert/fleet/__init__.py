"""The sites of a fleet: their keys, the bundles that they run, and decisions about their data.

site_registry.py     each site with the keys that it signs with
enrolment_file.py    the file that makes a machine a site
rollout_progress.py  which sites run the planned bundles, where updates failed, and whether to halt a rollout
accountability.py    the log of decisions about personal data

Each site decides by the same rules (`edge_agent.formats.plan`) what it runs; the central team only compares.
"""
