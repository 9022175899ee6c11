"""Making this machine a site, from the enrolment file that the central team made for it: docs/enrolment.md.

site_enrolment.py          may this enrolment file be used here, and now? The steps: read, check, set aside what another
                      site left, write; enrolment.json records them
site_files.py         the files that it makes, credentials encrypted by systemd, and writing all of them or none
unit_drop_ins.py      what the units must allow: the listener's networks, the folders that are object stores; whether
                      the uplink can use those folders; restarting the services
"""
