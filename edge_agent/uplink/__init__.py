"""The uplink daemon, the only one that connects outward: an untrusted mirror between outbox and object store.

uplink_daemon.py      starts and stops the daemon
transfer_loop.py      performs the next transfer
transfer_schedule.py  chooses the next transfer within the bandwidth cap; the state in uplink.json
connection_retries.py when a store that did not answer is tried again
upload.py             uploads sealed segments: each at most once, never over another object
update_download.py    downloads metadata and blobs
exchange_dirs.py      reads outbox/, writes receipts/ and incoming/, each blob checked by its hash
object_store.py       the interface of object stores; store_backends.py has S3, GCS, Azure, HTTP and folders
escalation/           questions to the large model, and their cost
"""
