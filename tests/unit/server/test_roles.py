"""Permissions: every method is in the table of roles, and a caller gets only the methods of its roles."""

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


def test_table_of_roles_has_every_method():
    """The table of roles has exactly the served methods."""
    assert SERVED == set(roles.METHODS)


def test_every_method_has_an_existing_role():
    """Each needs a role that exists."""
    assert [] == [method for method, allowed in roles.METHODS.items() if not allowed or allowed - roles.ROLES]


def test_only_health_is_open_to_all_roles():
    """Every method but health has a single role."""
    shared = {method for method, allowed in roles.METHODS.items() if len(allowed) > 1}
    assert {method for method in SERVED if "Health" in method} == shared


def test_method_outside_the_table_is_refused():
    """The error for a method outside the table says that no role permits it."""
    error = roles.role_missing("Wipe", frozenset(), "boss", roles.ROLES)
    assert "Wipe needs a role that nobody has" in error.message


def test_every_call_has_one_treatment():
    """Calls of devices and reviewers are counted, changes of operators are logged, and health is neither."""
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
def test_refusal_names_client_call_and_missing_role(held: frozenset[Role], said: str):
    """The message stands alone, and the remedy says how to get the role."""
    error = roles.role_missing("GetStatus", roles.ADMIN, "till-3", held)
    assert said == error.message
    assert "edge-agent://role/admin" in error.remedy
    assert ("till-3", "GetStatus") == (error.metadata["client"], error.metadata["call"])


@given(held=st.lists(EACH, unique=True))
def test_a_certificate_carries_its_roles(held: list[Role]):
    """The roles in an issued certificate are those that are read from it."""
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
def test_other_uris_give_no_role(uri: str):
    """A URI gives a role only if it is exactly that of the role."""
    assert frozenset() == roles.certificate_roles(certificate(uri), {})


def test_role_as_a_dns_name_gives_no_role():
    """A role URI among the DNS names gives no role, so an authority that issues only host names cannot grant one."""
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
    """A configured pattern matches a name exactly, or with a '*' at its start or end."""
    given_ = certificate("spiffe://shop/till/3", names=("till-3.shop.example",))
    assert (frozenset({"infer"}) if fits else frozenset()) == roles.certificate_roles(given_, {pattern: ("infer",)})


def test_uri_pattern_does_not_match_dns_names():
    """A DNS name that looks like a URI does not match a pattern for URIs."""
    assert frozenset() == roles.certificate_roles(
        certificate(names=("spiffe://shop/till",)), {"spiffe://shop/*": ("admin",)}
    )


def test_configured_and_own_roles_add_up():
    """Roles of the certificate and of the configuration are combined."""
    both = certificate("edge-agent://role/infer", "spiffe://shop/boss")
    assert frozenset({"infer", "admin"}) == roles.certificate_roles(both, {"spiffe://shop/boss": ("admin",)})
