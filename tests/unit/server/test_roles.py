"""Permissions: every method has its line, and a caller gets only the methods of its roles."""

from __future__ import annotations

import time
from typing import get_args

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import certificate_authority
from edge_agent.config import Role
from edge_agent.formats.certificates import Certificate, parse_certificates
from edge_agent.server import roles
from edge_agent.server.open_inference import oip_tensors
from edge_agent.v1 import admin_pb2, feedback_pb2, inference_pb2

FILES = (inference_pb2, feedback_pb2, admin_pb2, health_pb2, reflection_pb2)
SERVICES = (*(service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()), oip_tensors.SERVICE)
SERVED = {f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
EACH = st.sampled_from(get_args(Role))


def certificate(*uris: str, names: tuple[str, ...] = ()) -> Certificate:
    return Certificate("till-3", (*uris, *names), uris, False, 0, 1, "")


def test_every_method_has_its_line():
    """A new RPC without a line in the table fails here, and so does a line without an RPC."""
    assert SERVED == set(roles.METHODS)


def test_every_method_is_for_somebody():
    """Each needs a role that exists."""
    assert [] == [method for method, allowed in roles.METHODS.items() if not allowed or allowed - roles.ROLES]


def test_only_health_is_for_everyone():
    """Any other method is for one role."""
    shared = {method for method, allowed in roles.METHODS.items() if len(allowed) > 1}
    assert {method for method in SERVED if "Health" in method} == shared


def test_a_method_without_a_line_is_for_nobody():
    """The refusal says that nobody has the role."""
    error = roles.role_missing("Wipe", frozenset(), "boss", roles.ROLES)
    assert "Wipe needs a role that nobody has" in error.message


def test_each_call_is_of_one_kind():
    """What devices and reviewers do is counted, what an operator changes is written down, and health is neither."""
    kinds = {method.rpartition("/")[2]: roles.call_treatment(method) for method in SERVED}
    assert {"Check", "Watch"} == {name for name, kind in kinds.items() if kind == "health"}
    looking = {"GetStatus", "GetFieldReport", "GetPrivacyReport", "ListBundles", "TryRedaction", "ServerReflectionInfo"}
    looking |= {"ListRedactionAudit"}
    assert looking == {name for name, kind in kinds.items() if kind == "look"}
    changing = {
        "InstallBundle",
        "ActivateBundle",
        "RollbackTask",
        "RemoveBundle",
        "ImportUpdate",
        "AllowUpdate",
        "Drain",
        "ErasePrediction",
    }
    assert changing <= {name for name, kind in kinds.items() if kind == "change"}
    assert {"Classify", "Generate", "SubmitFeedback"} <= {name for name, kind in kinds.items() if kind == "work"}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (frozenset(), "till-3 has no role; GetStatus needs admin"),
        (frozenset({"infer"}), "till-3 has the role infer; GetStatus needs admin"),
        (frozenset({"infer", "feedback"}), "till-3 has the role feedback and infer; GetStatus needs admin"),
    ],
)
def test_the_refusal_names_who_what_and_which(held: frozenset[Role], said: str):
    """The sentence stands alone, and the remedy says how to get the role."""
    error = roles.role_missing("GetStatus", roles.ADMIN, "till-3", held)
    assert said == error.message
    assert "edge-agent://role/admin" in error.remedy
    assert ("till-3", "GetStatus") == (error.metadata["client"], error.metadata["call"])


@given(held=st.lists(EACH, unique=True))
def test_a_certificate_carries_its_roles(held: list[Role]):
    """What was issued is what is read."""
    made = certificate_authority.issue_client_certificate(AUTHORITY, "till-3", held, time.time())
    assert frozenset(held) == roles.certificate_roles(parse_certificates(made.certificate, "it")[0], {})


AUTHORITY = certificate_authority.make_authority("site", time.time())


@pytest.mark.parametrize(
    "uri",
    [
        "edge-agent://role/root",
        "edge-agent://role/Admin",
        "edge-agent://role/admin/",
        "edge-agent://role/admin?x",
        "edge-agent://roles/admin",
        "edge-agent:role/admin",
        "spiffe://edge-agent/role/admin",
    ],
)
def test_what_is_no_role_gives_none(uri: str):
    """A URI counts only when it is exactly that of a role."""
    assert frozenset() == roles.certificate_roles(certificate(uri), {})


def test_a_role_among_the_other_names_gives_none():
    """An authority that issues host names only cannot be talked into issuing a role."""
    assert frozenset() == roles.certificate_roles(certificate(names=("edge-agent://role/admin",)), {})


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("spiffe://shop/till/3", True),
        ("spiffe://shop/till/*", True),
        ("spiffe://shop/till/", False),
        ("spiffe://other/*", False),
        ("till-3.shop.example", True),
        ("*.shop.example", True),
        ("*shop.example.org", False),
        ("shop.example", False),
    ],
)
def test_roles_are_configured_by_name(pattern: str, fits: bool):
    """Exactly, or with a '*' at the start or the end."""
    given_ = certificate("spiffe://shop/till/3", names=("till-3.shop.example",))
    assert (frozenset({"infer"}) if fits else frozenset()) == roles.certificate_roles(given_, {pattern: ("infer",)})


def test_a_pattern_for_uris_does_not_fit_other_names():
    """A host name that looks like a URI is none."""
    assert frozenset() == roles.certificate_roles(
        certificate(names=("spiffe://shop/till",)), {"spiffe://shop/*": ("admin",)}
    )


def test_configured_and_own_roles_add_up():
    """Neither takes anything away."""
    both = certificate("edge-agent://role/infer", "spiffe://shop/boss")
    assert frozenset({"infer", "admin"}) == roles.certificate_roles(both, {"spiffe://shop/boss": ("admin",)})
