"""Production monitoring: how each bundle does at this site, in tables of spool.db.

monitoring_store.py    counts answers and labels, raises and ends alarms
monitoring_tables.py   the tables behind it, bounded in rows
risk_and_drift.py      risk, input shift and drift: tests that can be read after every answer
answer_observations.py      what is counted of one answer, and what is known of a bundle, ready to be shown
"""
