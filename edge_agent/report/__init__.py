"""The report: cost and readiness of each task, as a judgement, a page with charts, and JSON.

task_figures.py         the counts of one task, and how they follow from what the daemon reports
readiness.py            examples, agreement, and the coverage that the local model can achieve
mode_recommendation.py  which mode a task should have next
suitability.py          whether a task should have a small model; its costs
judgement.py            all of that together, in words, and as JSON
charts.py               the charts, and the marks that they are drawn with; the web console draws with them, too
report_page.py          the HTML page
"""
