"""The built-in rules, in the order in which they run.

A finder yields spans (start, end) in Unicode code points. Every pattern has a bounded reach, so that the time is linear
in the length of any text; tests/unit/capture/test_builtin_rules.py measures it. docs/redaction.md has the recall and
the false positives of each rule.

Values that are recognized only by the words before them (names, record numbers, documents, accounts, plates, passwords)
are found here, the others in the modules next to this one. The words are those of eleven languages; a word that is
common in other senses ("case", "plate") counts only with a second one ("case number"). People's names are found after a
title, a greeting, "my name is" or a closing formula; a name alone takes a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from edge_agent.capture.redact import UPPER, RedactionRule, RuleGate, Span, finder
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
from edge_agent.capture.redact.indexed_text import AnnouncedPattern, index_text
from edge_agent.capture.redact.national_numbers import (
    find_announced_national_numbers,
    find_machine_readable_lines,
    find_written_national_numbers,
)
from edge_agent.capture.redact.telephone_numbers_and_dates import find_birth_dates, find_phones, regional_phones

_PART = (
    rf"(?:[{UPPER}](?:[\w'\u2019]{{0,30}}[a-zß-öø-ÿā-ž'\u2019][\w'\u2019]{{0,30}}|\.)(?:-[{UPPER}][\w'\u2019]{{1,30}})?"
    r"|[A-Z](?= [A-Z]))"
)
_PARTICLE = (
    r"(?:(?:von|van|der|den|de|del|della|di|da|do|dos|du|le|la|al|bin|ibn|ter|ten|zu|zur|af|av|el|y|e|und|and"
    r"|&) ){0,3}"
)
_NAME = rf"{_PART}(?:[ ]{_PARTICLE}{_PART}){{0,3}}"
_TITLE = (
    r"Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Doctor|Herrn?|Frau|Fr|Hr|Fräulein|M|Mme|Mlle|Monsieur|Madame"
    r"|Mademoiselle|Docteur|Sr|Sra|Srta|Señor|Señora|Señorita"
    r"|Don|Doña|Sig|Sig\.ra|Sig\.na|Signor|Signora|Signorina|Dott|Dott\.ssa|Dottor|Dottoressa|Meneer|Mevrouw|Mevr"
    r"|Mw|Dhr|Heer|Pani|Pana|Panu|Panem|Panią|Senhora?|Dona|Dra"
    r"|Fru|Frøken|Fröken|Herra|Rouva|Schwester|Pfleger|Nurse|Sister|Rev|Fr\.|Sgt|Capt|Col|Lt|Sen|Rep|Gov|Sir|Lady"
    r"|Lord|Dame|Baron|Judge|Officer"
)
_TITLES = rf"{_TITLE}|frau|herrn?|mevrouw|meneer|signora?|señora?|madame|monsieur|pani|senhora?|fru"
_TITLED_NAME = AnnouncedPattern(
    rf"(?<!\w)(?:{_TITLES})\.? (?:(?:Dr|Prof|med|h\.c|Dipl|Ing)\.? ){{0,3}}(?P<v>{_NAME})(?!\w)", _TITLES
)
# "Pan" is also bread, and a kitchen tool: the surname must have a Polish ending.
_POLISH_NAME = AnnouncedPattern(
    rf"(?<!\w)[Pp]an (?P<v>(?:{_PART} )?[{UPPER}]\w{{1,30}}(?:ski|cki|dzki|wicz|czyk|czak|iak|arz))(?!\w)", "pan"
)
_GREETINGS = (
    r"Hi|Hello|Hey|Dear|Liebe|Lieber|Hallo|Bonjour|Salut|Chère|Cher|Hola|Querid[oa]|Estimad[oa]|Ciao"
    r"|Car[oa]|Gentile|Beste|Geachte|Dzień dobry|Cześć|Drog[ia]|Hej|Kære|Hei|Olá|Oi|Thanks|Thank you|Danke|Merci"
    r"|Gracias|Grazie|Best|Good (?:morning|afternoon|evening)"
)
_GREETED_NAME = AnnouncedPattern(rf"(?<!\w)(?:{_GREETINGS}),? (?P<v>{_NAME})(?=[,!:.;]|\n|$| -| \u2013)", _GREETINGS)
_INTRODUCTIONS = (
    r"my (?:full )?name(?:['\u2019]s| is)|name of the patient(?: is)?"
    r"|patient(?:['\u2019]?s)? name(?: is)?"
    r"|(?:full |first |last |sur|maiden |account holder |card ?holder |customer )?name ?[:=]|call me|this is"
    r"|it['\u2019]s|i am|i['\u2019]m|speaking with|spoke (?:to|with)|ask for"
    r"|ich hei(?:ß|ss)e|mein name ist|meine name ist|name des patienten|ich bin|hier (?:ist|spricht)"
    r"|patient(?:in)?:|kundin?:|kunde:"
    r"|je m['\u2019]appelle|mon nom est|nom ?:|je suis|c['\u2019]est|me llamo|mi nombre es|nombre ?:|soy|habla con"
    r"|mi chiamo"
    r"|il mio nome è|nome ?:|sono|ik heet|mijn naam is|naam ?:|ik ben|met"
    r"|nazywam się|mam na imię|jestem|imię i nazwisko ?:|jag heter|mitt namn är|namn ?:|jeg hedder|mit navn er"
    r"|jeg heter|mitt navn er|navn ?:|nimeni on|o meu nome é|meu nome é|chamo-me|sou (?:o|a)"
    r"|customer|client|patient|account holder|card ?holder|(?:attn|attention|c/o|z\.? ?hd\.?|zu händen|signed"
    r"|regards|sincerely|cheers|yours|grüßen|grüße|gruß|cordialement|saludos|saluti|groeten|groet|pozdrawiam"
    r"|hälsningar|hilsen|cumprimentos)"
)
_INTRODUCED_NAME = AnnouncedPattern(
    rf"(?i:(?<!\w)(?:{_INTRODUCTIONS})[ ]?[:,]?\s{{1,2}})(?P<v>{_NAME})(?!\w)", _INTRODUCTIONS
)
_NAMINGS = (
    r"my (?:full )?name(?:['\u2019]s| is)|ich hei(?:ß|ss)e|mein name ist|je m['\u2019]appelle"
    r"|mon nom est"
    r"|me llamo|mi nombre es|mi chiamo|il mio nome è|ik heet|mijn naam is|nazywam się|jag heter|mitt namn är"
    r"|jeg hedder|mit navn er|jeg heter|o meu nome é|chamo-me"
)
_LOWER_CASE_NAME = AnnouncedPattern(
    rf"(?i)(?<!\w)(?:{_NAMINGS})"
    r":? (?P<v>[^\W\d_]{2,20}(?:[-'\u2019][^\W\d_]{1,20})?(?: (?!(?:and|und|et|y|e|en|i|och|og|ja|on|is|not|with|from"
    r"|aus|de|my|ich|und|je|the|a|an|at|in|to|for|please|bitte|pas|nicht|spelled|but|aber)(?!\w))[^\W\d_]{2,20})?)",
    _NAMINGS,
)
_FIRST_WORD = re.compile(r"[\w'\u2019]+")
_NO_NAME = re.compile(
    rf"(?i)(?:{_TITLE}|sir|madam|there|all|customer|client|team|everyone|everybody|friends?|colleagues?|world"
    rf"|service|support|doctor|nurse|ladies|gentlemen|again|you|very|so|lot|the|this|that|not|no|yes|ok|okay|please"
    rf"|regards|wishes|sincerely|morning|afternoon|evening"
    r"|kunde|kundin|damen|herren|zusammen|alle|liebe|welt|und|für|leider|monsieur|madame|messieurs|à|tous"
    r"|señor(?:es)?|todos|tutti|signori|mevrouw|meneer|państwo|alla|everything|sorry|looking|unable|having|from|to"
    r"|in|on|at|a|an|i|we|he|she|it|my|your|our|is|are|was|who|what|how|can|do"
    r"|alexa|siri|google|pepper|oetker|martens|muscle|proper|clean|coffee|potato|bean|right|beast|january|february"
    r"|march|april|may|june|july|august|september|october|november|december|monday|tuesday|wednesday|thursday"
    r"|friday|saturday|sunday|montag|dienstag|mittwoch|donnerstag|freitag|samstag|sonntag)\Z"
)


def find_announced_names(text: str) -> Iterator[Span]:
    """Find names of up to four parts after a title, a greeting or an introduction, and below a closing formula."""
    indexed_text = index_text(text)
    capitalized = (_TITLED_NAME, _POLISH_NAME, _GREETED_NAME, _INTRODUCED_NAME) if indexed_text.has_capitals else ()
    for pattern in (*capitalized, _LOWER_CASE_NAME):
        for match in pattern.finditer(indexed_text):
            first_word = _FIRST_WORD.match(match["v"])
            if first_word and not _NO_NAME.match(first_word[0]):
                yield match.span("v")


_NUMBER_WORD = r"(?:[- ]?(?:number|no|num|nr|id|code|nummer|numm?er[oa]|n[úu]mero|num[ée]ro|n°|nº|#))"
_RECORDS = (
    r"mrn|m\.r\.n|emrn|medical record|med(?:ical)? rec|health record|chart(?= ?(?:number|no|nr|id|#|:))"
    r"|record(?= (?:number|no|id))|hospital(?= (?:number|no|id))"
    r"|patient(?:en)?[- ]?(?:id|no|nr|number|nummer|n[úu]mero|code)|patientennummer|pat\.?-?(?:nr|id)"
    r"|fall(?:nummer|-?nr)|aktenzeichen|akten(?:nummer|-?nr)|aufnahme(?:nummer|-?nr)"
    r"|case[- ](?:number|no|id)|file[- ](?:number|no)|admission(?: (?:number|no|id))|encounter(?: (?:number|no"
    r"|id))|accession(?: (?:number|no))"
    r"|dossier(?: (?:m[ée]dical|patient|num[ée]ro|n°|nr))?|num[ée]ro de dossier|n[°º]? ?de dossier|n[º°] ?dossier"
    r"|historia cl[íi]nica"
    r"|n[º°] ?de historia|expediente|nhc|cartella clinica|numero cartella|pati[ëe]ntn(?:umme)?r"
    r"|journaln(?:umme)?r|processo cl[íi]nico|n[úu]mero de processo|(?:numer|nr) (?:karty|pacjenta|historii)"
    r"|dossiern(?:umme)?r|patientn(?:umme)?r"
)
_DOCUMENTS = (
    r"passport|reisepass|pass-?n(?:umme)?r|passn(?:umme)?r|passeport|pasaporte|passaporto|passaporte"
    r"|paspoort(?:n(?:umme)?r)?|paszport\w{0,3}|passn(?:umme)?r|pass\.? ?no"
    r"|driv(?:er|ing)['\u2019]?s?[- ]?(?:licen[cs]e|permit)|dl|d\.l\.|f[üu]hrerschein(?:n(?:umme)?r)?"
    r"|permis(?: de conduire)?|permiso de conducir|carn[eé] de conducir|patente(?: di guida)?"
    r"|rijbewijs(?:n(?:umme)?r)?|k[öo]rkort(?:sn(?:umme)?r)?|kørekort|carta de condu[çc][ãa]o|prawo jazdy"
    r"|prawa jazdy"
    r"|(?:personal)?ausweis(?:-?n(?:umme)?r)?|ausweisnr|carte d['\u2019]identit[ée]|cni|carta d['\u2019]identit[àa]"
    r"|identity card|id[- ]card|national id|identiteitskaart|documento de identidad|bilhete de identidade|dow[óo]d"
    r"|residence permit|aufenthaltstitel|titre de s[ée]jour|tie|visa (?:number|no)"
)
_ACCOUNTS = (
    r"insurance(?: (?:policy|member|id))?|versichert\w{0,4}-?n(?:umme)?r|versicherungs(?:schein)?-?n(?:umme)?r"
    r"|krankenkasse|mutuelle|assurance|p[óo]liza|polizza|polis(?:n(?:umme)?r)?|seguro|forsikring(?:sn(?:umme)?r)?"
    r"|ubezpieczenia|policy"
    r"|member(?:ship)?|mitglieds-?n(?:umme)?r|mitgliedsnr|adh[ée]rent|socio|tessera|lidn(?:umme)?r"
    r"|medlemsn(?:umme)?r|customer|client|kunden-?n(?:umme)?r|kundennr|kd-?nr|num[ée]ro client"
    r"|n[úu]mero de cliente|codice cliente|klantn(?:umme)?r|kundn(?:umme)?r|kunden(?:umme)?r|loyalty(?: card)?"
    r"|acc(?:oun)?t|a/c|konto(?:-?n(?:umme)?r)?|compte|cuenta|conto(?: corrente)?|conta|rekening(?:n(?:umme)?r)?"
    r"|kontonr|bank account|sort code|routing|aba|blz|bankleitzahl|bsb|swift|bic|iban"
    r"|tax(?:payer)?(?: (?:id|ref(?:erence)?|file|identification))|employee|staff|personal-?n(?:umme)?r"
    r"|mitarbeiter-?n(?:umme)?r|student|matrikel-?n(?:umme)?r|license|licence"
)
_WITH_NUMBER = (
    r"insurance|policy|member(?:ship)?|customer|client|acc(?:oun)?t|compte|cuenta|conto|conta|krankenkasse"
    r"|mutuelle|assurance|seguro|socio|routing|employee|staff"
    r"|student|license|licence|tessera|konto|loyalty(?: card)?|visa|patente|permis|tie|dl|dossier|expediente|bsb"
    r"|aba|bic|swift"
)
_BETWEEN = (
    r"[\s:=#°º.,\-\u2013(\"']{0,4}(?:(?:is|was|number|num|no|nr|n|id|code|card|nummer|numm?er[oa]|n[úu]mero|num[ée]ro"
    r"|ist|lautet|est|es|è|e|é|er|är|jest|to|van|de|del|della|di|du|do|für|pour|voor|my|mine|meine?|ends in|the)"
    r"\b[\s:=#°º.,\-\u2013(\"']{0,4}){0,4}"
)
_VALUE = r"(?P<v>(?=[0-9A-Z\-./ ]{0,12}\d)[0-9A-Z]{1,20}(?:[ \-./]{1,2}(?=[0-9A-Z]{0,4}\d)[0-9A-Z]{1,14}){0,6})(?!\w)"
_ANNOUNCERS = f"{_RECORDS}|{_DOCUMENTS}|{_ACCOUNTS}"
_DIGIT_WITHIN = 128
"""More than the longest announcer with all the words after it and the characters of a value before its first digit."""
_RECORD = AnnouncedPattern(
    rf"(?i:(?<!\w)(?:(?:{_ANNOUNCERS})\b\.?{_NUMBER_WORD}?)){_BETWEEN.replace('(?:(?:is', '(?i:(?:is')}(?i:{_VALUE})",
    _ANNOUNCERS,
    digit_within=_DIGIT_WITHIN,
)
_PLAIN_WORD = re.compile(rf"(?i)(?:{_WITH_NUMBER})\b")
_SECOND_WORD = re.compile(
    r"(?i)\b(?:number|no|num|nr|id|code|nummer|numm?er[oa]|n[úu]mero|num[ée]ro|policy|member)\b|[#:°º]"
)
RECORD_DIGITS_MIN = 4


def find_announced_numbers(text: str) -> Iterator[Span]:
    """Find numbers of records, documents, accounts and customers: at least four digits after a word for them."""
    for match in _RECORD.finditer(text):
        announcement = text[match.start() : match.start("v")]
        plain_word = _PLAIN_WORD.match(announcement)
        digits = sum(char.isdigit() for char in match["v"])
        if digits >= RECORD_DIGITS_MIN and (plain_word is None or _SECOND_WORD.search(announcement)):
            yield match.span("v")


_PLATES = (
    r"(?:licen[cs]e|number|registration) plate|plate (?:number|no)|plates?"
    r"|reg(?:istration)?(?: (?:number|no))|vehicle reg\w{0,10}|kennzeichen|kfz|autokennzeichen|immatriculation"
    r"|plaque"
    r"|matr[íi]cula|targa|kenteken|nummerplaat|nummerplade|registreringsnummer|regnr|reg\.?nr\.?|tablic\w{0,3}"
    r"|numer rejestracyjny"
)
_PLATE = AnnouncedPattern(
    rf"(?i:(?<!\w)(?:{_PLATES})\b[\s:=#.\-]{{0,3}}"
    r"(?:(?:number|no|nummer|is|ist|est|es|è|er|är|das|le|la|il|my|mein)\b[\s:=]{1,3}){0,3})"
    r"(?P<v>(?=[0-9A-ZÄÖÜ\- ·.]{0,10}\d)[0-9A-ZÄÖÜ]{1,8}(?:[ \-·.:]{1,2}[0-9A-ZÄÖÜ]{1,5}){0,3})(?!\w)",
    _PLATES,
)


def find_plates(text: str) -> Iterator[Span]:
    """Find number plates after a word for them."""
    yield from (match.span("v") for match in _PLATE.finditer(text))


_SECRETS = (
    r"password|passwd|pwd|passphrase|passcode|passwort|kennwort|mot de passe|mdp|contrase[ñn]a"
    r"|clave(?: de acceso)?|senha|palavra-passe|wachtwoord|has[łl]o|l[öo]senord|adgangskode|passord|salasana"
    r"|parola(?: d['\u2019]ordine)?"
    r"|pin(?:[- ]?(?:code|nummer|number))?|tan|puk|cvv2?|cvc2?|security code|access code|api[- _]?key"
    r"|secret(?: key)?|access[- _]?token|token|bearer|wifi key|wlan-?schlüssel|login code|otp|one[- ]time code"
)
_SECRET = AnnouncedPattern(
    rf"(?i)(?<!\w)(?:{_SECRETS})"
    r"(?: (?:for|of|für|to|de|zu|pour|voor|till?) (?:\w{1,20} ){1,3}(?=is|ist|=|:|est|es|è|är|er))?"
    r"(?: ?(?:[:=]|(?<=bearer)|\b(?:is|was|ist|lautet|est|es|è|é|är|er|to|jest|on|now|auf)\b(?: now"
    r"| jetzt)?)[ :=]{0,3})[\"'\u201c\u201e«]?(?P<v>[^\s\"'\u201d\u201c»<>\[\]]{3,200})",
    _SECRETS,
)
_KEY = AnnouncedPattern(
    r"(?<![\w-])(?:sk-[\w-]{16,200}|gh[pousr]_\w{20,100}|xox[abpr]-[\w-]{10,100}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|AIza[\w-]{35}|eyJ[\w-]{10,500}\.[\w-]{10,500}\.[\w-]{5,500}|glpat-[\w-]{20,60})(?![\w-])",
    "sk-|gh[pousr]_|xox|AKIA|ASIA|AIza|eyJ|glpat",
)
_NO_SECRET = re.compile(
    r"(?i)(?:wrong|incorrect|not|required|missing|expired|invalid|too|the|a|an|my|your|on|in|written|here|there"
    r"|set|reset|changed|correct|ok|valid|falsch|nicht|abgelaufen|gone|lost|forgotten|stuck|jammed|bent|broken|weg"
    r"|locked|for|to|case|being|blocked|gesperrt|ungültig|good|fine|mandatory)\b"
)


def find_secrets(text: str) -> Iterator[Span]:
    """Find values after "password is" and the like, and API keys by their prefix."""
    indexed_text = index_text(text)
    for match in _SECRET.finditer(indexed_text):
        if not _NO_SECRET.match(match["v"]):
            end = match.end("v") - (len(match["v"]) - len(match["v"].rstrip(".,;!?)")))
            yield match.start("v"), end
    yield from (match.span() for match in _KEY.finditer(indexed_text))


ANNOUNCED_NAME_RULE = "announced_name"
_AT, _LINK = RuleGate(AT_SIGN, near=False), RuleGate(re.compile("://"), near=False)
# An Italian tax code starts with letters, so its first digit follows one.
_MIXED = RuleGate(None, after_letter=True)
_NUMBER = RuleGate(re.compile(r"\d(?:[ .\-/()]{0,4}\d){5,}"), digits=6)
# Numbers with check digits, or with an unmistakable form: pattern and check.
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
    "es_dni": (r"(?i:[\dXYZ](?<!\w\w)(?:\d{7}|\d\.\d{3}\.\d{3}|(?<=[XYZ])-?\d{7})[ -]?[A-HJ-NP-TV-Z](?!\w))", es_dni),
    "fr_nir": (r"(?i:[12](?<!\w\d) ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?!\w))", fr_nir),
    "pl_pesel": (r"\d(?<!\w\d)\d{10}(?!\w)", pl_pesel),
    "se_personnummer": (r"\d(?:(?<!\w\d)|(?<=\W19\d)|(?<=\W20\d))\d{5}[-+]\d{4}(?!\w)", se_personnummer),
    "br_cpf": (r"\d(?<!\w\d)\d\d\.\d{3}\.\d{3}-\d{2}(?!\w)", br_cpf),
}
_ANY_ID = "|".join(pattern for pattern, _ in _NATIONAL_IDS.values())
# They begin words, or follow the century; where neither is so, the engine tries none of them.
_ID = RuleGate(re.compile(rf"(?:\b|(?<=19)|(?<=20))(?:{_ANY_ID})"), digits=6, margin=4)
# Numbers across line ends, spaced out, or with letters that look like digits.
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
    RedactionRule("url_credentials", "URL", finder(
        r"(?i)(?<![a-z0-9])(?:[a-z][a-z0-9+.-]{1,20}://[^\s/@:?#]{1,200}:[^\s/@]{1,200}@[^\s<>\"]{1,500}"
        rf"|https?://[^\s<>\"?]{{1,500}}\?(?:[^\s<>\"&]{{0,500}}&){{0,10}}(?:{_PARAMETERS})=[^\s<>\"]{{1,500}})"
    ), _LINK),
    RedactionRule("email", "EMAIL", find_emails, _AT),
    RedactionRule("spoken_email", "EMAIL", find_spoken_emails),
    RedactionRule("iban", "IBAN", find_ibans, _LONG_NUMBER),
    RedactionRule("card", "CARD", find_cards, _LONG_NUMBER),
    RedactionRule("mrz", "ID", find_machine_readable_lines, _FILLERS),
    *(RedactionRule(name, "ID", finder(pattern, check), _ID) for name, (pattern, check) in _NATIONAL_IDS.items()),
    RedactionRule("it_cf", "ID", finder(
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
"""In the order in which they run: numbers with a checksum come before those with only a shape."""


def built_in_rules(phone_regions: Sequence[str]) -> tuple[RedactionRule, ...]:
    """Return the rules; telephone numbers without a prefix belong to these regions (ISO 3166-1 codes)."""
    if not phone_regions:
        return RULES
    regional_rule = RedactionRule("phone", "PHONE", regional_phones(phone_regions), _NUMBER)
    return tuple(regional_rule if rule.name == "phone" else rule for rule in RULES)
