"""The rules that are always there, in the order in which they run.

A finder yields the places (start, end) of what it finds in a text, in Unicode code points. Rules run in the order of
the table, and what one found no later one finds again. Every pattern has a bounded reach, so that the time is linear in
the length of the text whatever it holds; tests/unit/capture/test_builtin_rules.py holds them to it. docs/redaction.md
has the recall and the false positives of each.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence

from edge_agent.capture.redact import RedactionRule, RuleGate, checked
from edge_agent.capture.redact.account_numbers import (
    br_cpf,
    de_tax_id,
    es_dni,
    find_cards,
    find_ibans,
    fr_nir,
    it_cf,
    pl_pesel,
    se_personnummer,
    uk_nhs,
    us_ssn,
)
from edge_agent.capture.redact.addresses import (
    AT_SIGN,
    DOMAIN_DOT,
    find_domains,
    find_emails,
    find_ip_addresses,
    find_mac_addresses,
    find_postal_addresses,
    find_spoken_emails,
)
from edge_agent.capture.redact.announced_values import (
    find_announced_names,
    find_announced_numbers,
    find_plates,
    find_secrets,
)
from edge_agent.capture.redact.national_numbers import (
    find_announced_national_numbers,
    find_machine_readable_lines,
    find_written_national_numbers,
)
from edge_agent.capture.redact.telephone_numbers import find_birth_dates, find_phones, regional_phones

ANNOUNCED_NAME_RULE = "announced_name"
_AT, _LINK = RuleGate(AT_SIGN, near=False), RuleGate(re.compile("://"), near=False)
# A tax code of Italy starts with letters, so its first digit stands behind one.
_MIXED = RuleGate(None, behind_letter=True)
_NUMBER = RuleGate(re.compile(r"\d(?:[ .\-/()]{0,4}\d){5,}"), digits=6)
# Of numbers with check digits, or a form that says enough: their patterns, and what the number has to pass.
_NATIONAL_IDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "us_ssn": (r"\d(?<![\w-]\d)\d{2}-\d{2}-\d{4}(?![\w-])", us_ssn),
    "uk_nhs": (
        r"(?i:\d(?<![\w+]\d)(?:\d\d[ -]\d{3}[ -]\d{4}|(?:(?<=nhs \d)|(?<=nhs: \d)|(?<=nhs number \d))\d{9})(?!\w))",
        uk_nhs,
    ),
    "uk_nino": (
        r"(?i:(?<!\w)(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D](?!\w))",
        bool,
    ),
    "de_tax_id": (r"[1-9](?<!\w\d)\d(?: ?\d{3}){3}(?!\w)", de_tax_id),
    "es_dni": (
        r"(?i:[\dXYZ](?<!\w\w)(?:\d{7}|\d\.\d{3}\.\d{3}|(?<=[XYZ])-?\d{7})[ -]?[A-HJ-NP-TV-Z](?!\w))",
        es_dni,
    ),
    "fr_nir": (r"(?i:[12](?<!\w\d) ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?!\w))", fr_nir),
    "pl_pesel": (r"\d(?<!\w\d)\d{10}(?!\w)", pl_pesel),
    "se_personnummer": (r"\d(?:(?<!\w\d)|(?<=\W19\d)|(?<=\W20\d))\d{5}[-+]\d{4}(?!\w)", se_personnummer),
    "br_cpf": (r"\d(?<!\w\d)\d\d\.\d{3}\.\d{3}-\d{2}(?!\w)", br_cpf),
}
_ID = RuleGate(re.compile("|".join(pattern for pattern, _ in _NATIONAL_IDS.values())), digits=6, margin=4)
# Numbers over line ends, spaced out, or with letters that look like digits.
_LONG_NUMBER = RuleGate(None, digits=8)
# Six digits, or the four of an Indian PAN.
_SHORT_NUMBER = RuleGate(re.compile(r"\d(?:(?:[ .\-/]?\d){5,}|(?<=[A-Z]\d)\d{3}[A-Z])"), reach=24, digits=4)
# Written to start with a digit: the engine skips to the next one much faster than it tries alternatives everywhere.
_DAY = RuleGate(re.compile(r"\d(?:(?:(?<=1)9|(?<=2)0)\d\d|[-/.] ?\d\d?[-/.]|(?<!\w\d)\d{5}(?:\d\d)?(?!\w))"), digits=4)
_DIGIT = RuleGate(None, near=False, digits=1)
_DOT = RuleGate(DOMAIN_DOT, near=False)
# Of IPv4, IPv6 and MAC addresses.
_SEPARATED = RuleGate(
    re.compile(
        r"[.:-](?:(?<=\d\.)\d{1,3}\.\d|(?<=[0-9A-Fa-f]:)[0-9A-Fa-f:]|(?<=:):"
        r"|(?<=[0-9A-Fa-f]{2}.)[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}|[0-9A-Fa-f]{2}\.))"
    )
)
_FILLERS = RuleGate(re.compile("<<"))

GATES = (_AT, _LINK, _MIXED, _NUMBER, _ID, _LONG_NUMBER, _SHORT_NUMBER, _DAY, _DIGIT, _DOT, _SEPARATED, _FILLERS)

_PARAMETERS = "token|access_token|api_?key|key|password|passwd|pwd|secret|sig|signature|auth|session|code"

RULES = (
    RedactionRule("url_credentials", "URL", checked(
        r"(?i)(?<![a-z0-9])(?:[a-z][a-z0-9+.-]{1,20}://[^\s/@:?#]{1,200}:[^\s/@]{1,200}@[^\s<>\"]{1,500}"
        rf"|https?://[^\s<>\"?]{{1,500}}\?(?:[^\s<>\"&]{{0,500}}&){{0,10}}(?:{_PARAMETERS})=[^\s<>\"]{{1,500}})"
    ), _LINK),
    RedactionRule("email", "EMAIL", find_emails, _AT),
    RedactionRule("spoken_email", "EMAIL", find_spoken_emails),
    RedactionRule("iban", "IBAN", find_ibans, _LONG_NUMBER),
    RedactionRule("card", "CARD", find_cards, _LONG_NUMBER),
    RedactionRule("mrz", "ID", find_machine_readable_lines, _FILLERS),
    *(RedactionRule(name, "ID", checked(pattern, check), _ID) for name, (pattern, check) in _NATIONAL_IDS.items()),
    RedactionRule("it_cf", "ID", checked(
        r"(?i)(?<!\w)[A-Z]{6}[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z](?!\w)", it_cf
    ), _MIXED),
    RedactionRule("announced_national_number", "RECORD", find_announced_national_numbers, _DIGIT),
    RedactionRule("national_number", "ID", find_written_national_numbers, _SHORT_NUMBER),
    RedactionRule("secret", "SECRET", find_secrets),
    RedactionRule("birth_date", "DATE", find_birth_dates, _DAY),
    RedactionRule("announced_number", "RECORD", find_announced_numbers, _DIGIT),
    RedactionRule("plate", "PLATE", find_plates, _DIGIT),
    RedactionRule("address", "ADDRESS", find_postal_addresses, _DIGIT),
    RedactionRule("ip_address", "IP", find_ip_addresses, _SEPARATED),
    RedactionRule("mac_address", "MAC", find_mac_addresses, _SEPARATED),
    RedactionRule("domain", "URL", find_domains, _DOT),
    RedactionRule("phone", "PHONE", find_phones, _NUMBER),
    RedactionRule(ANNOUNCED_NAME_RULE, "NAME", find_announced_names),
)  # fmt: skip
"""In the order in which they run: what has a checksum comes before what has only a shape."""


def built_in_rules(phone_regions: Sequence[str] = ()) -> tuple[RedactionRule, ...]:
    """Return the rules of a site whose telephone numbers without a prefix are of these regions (ISO 3166-1 codes)."""
    if not phone_regions:
        return RULES
    phones = functools.partial(RedactionRule, "phone", "PHONE", gate=_NUMBER)
    return tuple(phones(regional_phones(phone_regions)) if rule.name == "phone" else rule for rule in RULES)
