"""Engines: one loaded model in one supervised child process each. Knows no network and no disk layout.

pool.py, engine.py      all engines of the daemon; one of them, with its bundles
job_queue.py            how many inputs may wait, in total and for each client
job_dispatch.py         a job from the caller to the child and back
attached_bundles.py     which bundles the present child has, and how attaching ended
child_supervisor.py     starts each child, loads the base, attaches bundles, watches
child_process.py        one child from its start to its end, and the socketpair to it; detects and kills one that hangs
restart_policy.py       what follows when a child fails
child.py, protocol.py   the child's side, and the messages between both sides; golden cases and questions as jobs
confinement.py          what a child gives up: limits, Landlock, seccomp
memory_cap.py           what a model needs in memory, and what a child may take
machine_limits.py       threads, memory and devices of this machine; on which device the next child computes
runtimes/               what runs in the child
"""
