"""The other daemon, and which alone connects outward: an untrusted mirror between outbox and object store.

uplink_daemon.py      starts it, and ends it when told to
transfer_loop.py      asks for the next transfer and does it
transfer_schedule.py  which transfer is next, when the bandwidth cap allows it, and what is known, shown in uplink.json
connectivity.py       when a store that did not answer is tried again
upload.py             sealed segments up: at most once, never over something else
update_download.py    metadata and blobs down
exchange_dirs.py      reads outbox/, writes receipts/ and incoming/, each blob checked by its hash
object_store.py       what an object store is to the uplink; store_backends.py has S3, GCS, Azure, HTTP and folders
escalation/           questions to the large model, and what they may cost
"""
