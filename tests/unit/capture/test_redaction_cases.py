"""What each rule replaces and leaves, case by case."""

from __future__ import annotations

import pytest

from edge_agent.capture.redact.redactor import Redactor

IBAN = "DE89370400440532013000"


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        # Cards: grouped, between other numbers, at the ends of a text; not inside longer numbers.
        ("[CARD_1]", "4111111111111111"),
        ("([CARD_1])", "(4111-1111-1111-1111)"),
        ("[CARD_1] 12/27 123", "4111 1111 1111 1111 12/27 123"),
        ("12 [CARD_1] 7", "12 4111 1111 1111 1111 7"),
        ("[CARD_1] [CARD_2]", "4111 1111 1111 1111 5500 0000 0000 0004"),
        ("[CARD_1] amex", "3782 822463 10005 amex"),
        ("941111111111111111", "941111111111111111"),
        ("4111111111111112", "4111111111111112"),
        ("x4111111111111111", "x4111111111111111"),
        # IBANs: any case and grouping, nothing of the next word.
        ("[IBAN_1] please", f"{IBAN} please"),
        ("[IBAN_1] und", "DE89 3704 0044 0532 0130 00 und"),
        ("[IBAN_1]", IBAN.lower()),
        ("transfer_[IBAN_1]", f"transfer_{IBAN}"),
        ("[IBAN_1] [IBAN_2]", f"{IBAN} GB82WEST12345698765432"),
        (f"{IBAN}1", f"{IBAN}1"),
        ("DE88370400440532013000", "DE88370400440532013000"),
        # Addresses: signs around them stay.
        ("<[EMAIL_1]>,", "<a.b+c@example.co.uk>,"),
        ("[EMAIL_1].", "a@example.com."),
        ("[EMAIL_1];[EMAIL_2]", "a@b.de;c@d.fr"),
        ("a@b", "a@b"),
        ("@home 2@3", "@home 2@3"),
        # Links: only what carries a secret.
        ("[URL_1] ok", "https://u:p@h.example/x ok"),
        ("[URL_1]", "https://h.example/x?a=1&token=abc&b=2"),
        ("https://h.example/x?a=1&page=2", "https://h.example/x?a=1&page=2"),
        ("http://h.example:8080/", "http://h.example:8080/"),
        # Telephone numbers: written ones; not amounts, dates or times.
        ("[PHONE_1]", "+49 (0)30 1234567"),
        ("call [PHONE_1]!", "call 555-0123 44!"),
        ("[PHONE_1] or [PHONE_2]", "030/1234567 or (212) 555-0187"),
        ("03/04/2026", "03/04/2026"),
        ("12.50 EUR", "12.50 EUR"),
        # Dates of birth: by a word, or by the year; other dates stay.
        ("born [DATE_1]", "born 2019-05-06"),
        ("DOB: [DATE_1]", "DOB: 1/2/88"),
        ("[DATE_1]", "12.07.1984"),
        ("[DATE_1]", "March 5, 1972"),
        ("on 12.07.2026", "on 12.07.2026"),
        ("31.02.1984", "31.02.1984"),
        # National numbers.
        ("[ID_1]", "536-22-8765"),
        ("666-22-8765", "666-22-8765"),
        ("[ID_1]", "AB 12 34 56 C"),
        ("[ID_1]", "12345678Z"),
        ("12345678A", "12345678A"),
        ("[ID_1]", "529.982.247-25"),
        # Nothing at all.
        ("", ""),
        ("two coffees and a croissant", "two coffees and a croissant"),
        ("\u0664\u0661\u0661\u0661 no digits of ours", "\u0664\u0661\u0661\u0661 no digits of ours"),
    ],
)
def test_exactly_the_value_is_replaced(expected, text):
    """Exactly the value is replaced, and everything else stays."""
    assert expected == Redactor().start().text(text)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("card", "4111 1111 1111 1111"),
        ("iban", IBAN),
        ("uk_nhs", "943 476 5919"),
        ("de_tax_id", "86095742719"),
        ("fr_nir", "255081416802538"),
        ("pl_pesel", "44051401458"),
        ("se_personnummer", "811228-9874"),
        ("it_cf", "RSSMRA85T10A562S"),
        ("es_dni", "X1234567L"),
        ("email", "4111111111111111@example.com"),
        ("url_credentials", "https://a:b@example.com/?mail=c@d.de"),
    ],
)
def test_rule_with_a_check_digit_takes_precedence(rule, text):
    """A number with a valid check digit is not redacted as a telephone number."""
    redaction = Redactor().start()
    redaction.text(text)
    assert {rule: 1} == redaction.counts
