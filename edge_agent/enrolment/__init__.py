"""Making this box a site, by the kit that the centre made for it: docs/enrolment.md.

reading.py       the file, as something that anybody may have carried
judging.py       may this kit be taken here, and now?
record.py        enrolment.json: which kit this box was enrolled with, and what was written
writing.py       which files a kit makes, and writing all of them or none
credentials.py   secrets of the uplink, encrypted by systemd
former.py        setting aside the life of the site that this box was before
services.py      telling systemd
enrolment.py     the order of it all
"""
