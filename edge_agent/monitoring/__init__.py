"""Production monitoring: the performance of each bundle at this site, in tables of spool.db.

monitoring_store.py     counts answers and labels, raises and ends alarms
monitoring_tables.py    the tables, bounded in rows
risk_and_drift.py       tests for risk, input shift and drift that are valid after every answer
answer_observations.py  what is counted of one answer, and the figures of a bundle for display
"""
