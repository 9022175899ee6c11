"""Pure data formats that the toolkit and the appliance both read and write.

manifest.py             manifest.json of a bundle; its sections questions.py, record_schema.py
calibration_and_gate.py temperature, threshold with its proof, the gate, and the cut-off of redaction: sections of
                        the manifest, and their rule
golden_cases.py         inputs of a bundle, with its answers on the machine that made it
plan.py                 which bundle each site should run, from when, and under which conditions
repository_metadata.py  the metadata of a repository that a mirror reads, and the daemon's download requests
enrolment_file.py       the file that makes a machine a site
example_records.py      records of answers, people's feedback and teacher labels
segment.py              sealed files of records in a chain, and receipts for them
status_object.py        the signed status of a site; state_code.py is its short form for a telephone
uplink_state.py         uplink.json, the state of the uplink for other programs on the machine
signed_document.py      how documents of site and central team are read and signed
strict_json.py          one strict reader of JSON from outside; strict_yaml.py of YAML that people wrote
chat_request_form.py    how a request is written for a large model whose server refuses a part of it
compression.py          bounded decompression
certificates.py         X.509 certificates in PEM
"""
