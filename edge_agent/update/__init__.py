"""The active bundle of each task, and the steps from one bundle to the next.

updater.py                  the loop: brings each task to the bundle that the plan wants
update_state_machine.py     its decisions: fetch, test, switch, roll back
metadata_chain.py           from the trusted root to the plan, each signature checked
repository_acceptance.py    refuses a mirror or a USB drive that is older, expired or of a foreign fleet
ingest.py                   copies a signed bundle into the store, and requests missing files
selftest.py                 runs golden cases before a bundle answers
probation.py                judges the first hours of an active bundle
activation.py               the switch itself
blocked_update_messages.py  a sentence for each cause that stops an update
"""
