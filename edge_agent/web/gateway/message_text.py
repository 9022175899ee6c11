"""The text of a request, in any form that the APIs have: a string, parts, JSON, or the one message of the user. Pure.

A task reads one text. Its instructions, examples and template are in the signed bundle, where they were measured with
the model. So a system message, a history or a function call is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_agent.client.state_text import render_state
from edge_agent.web.gateway import request_json
from edge_agent.web.gateway.openai_errors import GatewayError
from edge_agent.web.gateway.request_json import JsonMembers

PARTS_MAX = 64
_CACHE_HINTS = {"prompt_cache_breakpoint": request_json.parse_object}
"""What asks for nothing here, where nothing is cached between calls."""
_ROLES_SHOWN_MAX = 8
_ALONE = "Send the user's text alone: the task brings its own prompt, and keeps no conversation."


def _read_text(part: JsonMembers) -> str:
    return part.required("text", request_json.parse_string)


def _read_cached_text(part: JsonMembers) -> str:
    part.present(_CACHE_HINTS)
    return _read_text(part)


def _read_json(part: JsonMembers) -> str:
    return part.required("data", parse_json_value)


CHAT_PARTS = {"text": _read_text}
DECISION_PARTS = {"input_text": _read_cached_text, "input_json": _read_json}
"""What reads each type of part."""
PartTypes = Mapping[str, Any]


def parse_user_message(value: Any, where: str, parts: PartTypes) -> str:
    """Return the text of a list of messages, which must be one of the user. Raises ValueError, GatewayError."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("must be a list of objects")
    roles = [str(each.get("role") or each.get("type"))[:20] for each in value[:_ROLES_SHOWN_MAX]]
    if len(value) != 1 or value[0].get("role") != "user":
        problem = f"'{where}' must be one message of the user; it holds {len(value)}: {', '.join(roles) or 'none'}"
        raise GatewayError(problem, param=where, remedy=_ALONE)
    message = JsonMembers(value[0], f"{where}[0]")
    message.required("role", request_json.parse_string)
    message.optional("type", request_json.one_of("message"), "message")
    text = message.required("content", lambda content: parse_content(content, f"{where}[0].content", parts))
    message.refuse_rest()
    return text


def parse_content(value: Any, where: str, parts: PartTypes) -> str:
    """Return a text, or parts joined by line breaks. Raises ValueError, GatewayError."""
    if not isinstance(value, list):
        return request_json.parse_string(value)
    request_json.check_count(len(value), 1, PARTS_MAX, "part")
    return "\n".join(_part(each, f"{where}[{place}]", parts) for place, each in enumerate(value))


def _part(value: Any, where: str, parts: PartTypes) -> str:
    part = request_json.parse_members(value, where)
    text: str = parts[part.required("type", request_json.one_of(*parts))](part)
    part.refuse_rest()
    return text


def parse_json_value(value: Any) -> str:
    """Return an object or a list as text. Raises ValueError."""
    if not isinstance(value, dict | list):
        raise ValueError(f"must be an object or a list; it is {request_json.type_name(value)}")
    return render_state(value)
