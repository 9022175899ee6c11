"""Making this machine a site, from the enrolment file that the central team made for it: docs/enrolment.md.

procedure.py          the steps: read, check, write; enrolment.json, the record of what was written
validation.py         may this enrolment file be used here, and now?
site_files.py         the files that it makes, credentials encrypted by systemd, and writing all of them or none
previous_site.py      setting aside the data of the site that this machine was before
unit_drop_ins.py      what the units must allow: the listener's networks, the folders that are object stores
store_folders.py      whether the uplink's user and unit can use those folders
systemd_services.py   restarting the services
"""
