"""The report: cost and readiness of each task, as a judgement, a page with charts, and JSON.

task_figures.py         the counts of one task, from the reports of the daemon
readiness.py            examples, agreement, and the coverage that the local model can achieve
mode_recommendation.py  which mode a task should have next
suitability.py          whether a task should have a small model; its costs
judgement.py            all of these together, in words and as JSON
charts.py               the charts and their drawing functions, which the web console uses, too
report_page.py          the HTML page
"""
