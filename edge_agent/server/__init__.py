"""The gRPC edge: translates, authorizes and maps errors; never decides.

grpc_servers.py           the listeners: one server for each socket, one for TCP
interceptor.py            wraps every call: role, admission, audit, errors
roles.py                  the roles that may call each method, and the identity of callers; tls.py reads certificates
client_call_limits.py     calls in progress and calls per second of a client; engine/job_queue.py limits waiting inputs
inference.py              a Classify or Decide call, with decide_questions.py, model_router.py and finished_answers.py
feedback.py               reviewers' feedback
admin_service.py          the calls of operators, with the warnings of status
open_inference/           the Open Inference Protocol
request_deduplication.py  one answer for each request_id
detached_calls.py         changes that continue when their caller leaves
audit_log.py              who changed what, and what was denied
engine_access.py          the engines, for updates and redaction
task_modes.py             the mode of each task
uplink_client.py          the daemon's side of the uplink's socket
messages.py               types to messages; monitoring_messages.py has those of monitoring, error_status.py errors
"""
