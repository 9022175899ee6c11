"""Making this machine a site, from the enrolment file that the central team made for it: docs/enrolment.md.

site_enrolment.py  whether an enrolment file may be used here and now, and the steps: read, check, set aside the data of
                   the previous site, write; enrolment.json records them
site_files.py      the files of an enrolment, credentials encrypted by systemd, and writing all of them or none
unit_drop_ins.py   what the units must allow: the listener's networks and the folders that are object stores; whether
                   the uplink can use those folders; restarting the services
"""
