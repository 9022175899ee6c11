"""Network addresses (e-mail, links, domains, IP, MAC) and postal addresses.

English and French write the house number first ("12 Mill Lane", "3 bis rue du Port"), the other languages the street.
The English street suffixes are those of USPS Publication 28, appendix C1. A postal code and a town after an address
belong to it; postal codes alone are found where their form is unique (Great Britain, Canada) or a word announces them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from edge_agent.capture.redact import UPPER, Span
from edge_agent.capture.redact.indexed_text import (
    AnnouncedPattern,
    AnnouncingWords,
    IndexedText,
    alternatives,
    beginnings,
    index_text,
    matches_at,
)

_LOCAL = re.compile(r"[\w!#$%&*+/=?^`{|}~-][\w.!#$%&'*+/=?^`{|}~-]{0,63}\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])")
AT_SIGN = re.compile("@")
_TOPS = (
    "com|org|net|edu|gov|mil|int|info|biz|io|app|dev|shop|online|site|tech|cloud|store|health|med|clinic|hospital"
    "|de|at|ch|fr|es|it|nl|be|pt|pl|se|dk|no|fi|ie"
    "|uk|eu|us|ca|au|nz|in|jp|kr|cn|br|mx|ar|cl|cz|sk|hu|ro|gr|tr|ru|ua|za|lu|li|is|ee|lv|lt|hr|si|bg|me|tv|cc|co"
)
_AT_WORD = "at|ät|arroba|arobase|chiocciola|apenstaartje|snabel-?a|małpa|klammeraffe"
_DOT_WORD = "dot|punkt|punt|point|punto|ponto|kropka|prick"
_DOT = rf"(?: (?:{_DOT_WORD}) | ?[\(\[{{] ?(?:{_DOT_WORD}|\.) ?[\)\]}}] ?)"
_ANY_DOT = rf"(?:{_DOT}| ?\. ?)"
_BEFORE_AT = rf"(?i)(?<![\w.-])[a-z0-9][\w+-]{{0,40}}(?:(?:{_ANY_DOT}|_)[\w+-]{{1,30}}){{0,4}}"
_HOST_PART = rf"[a-z0-9][\w-]{{0,40}}(?:{_ANY_DOT}[\w-]{{2,30}}){{0,3}}"
_AT_WORDS, _DOT_WORDS = beginnings(_AT_WORD), beginnings(_DOT_WORD)
_SPOKEN = (
    # With "at" as a word, the last dot must be a word, too: "look at example.com" is not an address.
    re.compile(rf"{_BEFORE_AT} (?:{_AT_WORD}) {_HOST_PART}{_DOT}(?:{_TOPS})(?![\w-])"),
    re.compile(
        rf"{_BEFORE_AT}(?: ?[\(\[{{<] ?(?:{_AT_WORD}|@) ?[\)\]}}>] ?| @ |@ "
        rf"| @){_HOST_PART}{_ANY_DOT}(?:{_TOPS})(?![\w-])"
    ),
)


def find_emails(text: str) -> Iterator[Span]:
    """Find addresses around each @ (RFC 5321: 64 characters before it at most)."""
    for at in AT_SIGN.finditer(text):
        domain, begin = _DOMAIN.match(text, at.end()), max(0, at.start() - 64)
        local = _LOCAL.search(text, max(begin, text.rfind(" ", begin, at.start()) + 1), at.start())
        if domain and local:
            yield local.start(), domain.end()


def find_spoken_emails(text: str) -> Iterator[Span]:
    """Find addresses in words: "jane at example dot com", "jane (at) example.com"; a top-level domain ends them."""
    indexed_text = index_text(text)
    has_bracket = any(each in text for each in "([{<")
    has_at_word = bool(indexed_text.starts(_AT_WORDS))
    with_word, with_sign = _SPOKEN
    if has_at_word and (has_bracket or indexed_text.starts(_DOT_WORDS)):
        yield from (match.span() for match in with_word.finditer(text))
    if "@ " in text or " @" in text or (has_bracket and (has_at_word or "@" in text)):
        yield from (match.span() for match in with_sign.finditer(text))


_GENERIC_TOPS = (
    "com|org|net|edu|gov|mil|info|biz|io|app|dev|shop|online|site|xyz|club|clinic|hospital|co\\.uk|org\\.uk"
    "|ac\\.uk|gov\\.uk|nhs\\.uk|com\\.au|com\\.br|co\\.nz|co\\.in|co\\.jp|co\\.za"
    "|de|ch|fr|nl|be|pl|se|dk|fi|ie|uk|eu|us|ca|au|nz|jp|kr|cn|br|mx|cz|sk|hu|ro|gr|tr|ru|ua|za|lu|hr|bg|tv|pt"
)
DOMAIN_DOT = re.compile(r"\.[A-Za-z]{2}")
_HOST = re.compile(
    rf"(?i)(?<![\w.@/-])(?:https?://)?(?:www\.(?:[a-z0-9-]{{1,63}}\.){{1,6}}[a-z]{{2,24}}"
    rf"|(?:[a-z0-9][a-z0-9-]{{1,62}}\.){{1,6}}(?:{_GENERIC_TOPS}))(?::\d{{1,5}})?(?:/[^\s<>\"]{{0,500}})?(?![\w@-])"
)


def find_domains(text: str) -> Iterator[Span]:
    """Find host names in usual top-level domains, with the path after them."""
    end = 0
    for dot in DOMAIN_DOT.finditer(text):
        if dot.start() < end:
            continue
        begin, blank = text.rfind(" ", end, dot.start()) + 1, text.find(" ", dot.end())
        end = blank if blank >= 0 else len(text)
        for match in _HOST.finditer(text, begin, end):
            yield match.start(), match.end() - (len(match[0]) - len(match[0].rstrip(".,;:!?)")))


_IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IP6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f:.]{3,45}(?![\w:]))(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}"
    r"|(?:\d{1,3}\.){3}\d{1,3})?"
)
_MAC = re.compile(
    r"(?i)(?<![\w:-])(?:[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}"
    r"|[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4})(?![\w:-])"
)


def find_ip_addresses(text: str) -> Iterator[Span]:
    """Find IPv4 addresses, and IPv6 addresses with "::" or at least three colons, that `ipaddress` accepts."""
    for pattern in (_IP4, _IP6):
        for match in pattern.finditer(text):
            if _is_ip(match[0]):
                yield match.span()


def _is_ip(candidate: str) -> bool:
    try:
        ipaddress.ip_address(candidate)
    except ValueError:
        return False
    # "::" and "1::" are code or a time more often than an address.
    return "." in candidate or len(candidate) > 4


def find_mac_addresses(text: str) -> Iterator[Span]:
    """Find hardware addresses (EUI-48) with colons, hyphens or dots."""
    yield from (match.span() for match in _MAC.finditer(text))


_SUFFIXES = (
    "alley|aly|annex|arcade|avenue|ave?|bayou|beach|bend|bluffs?|bottom|boulevard|blvd|branch|bridge|brooks?|burgs?"
    "|bypass|camp|canyon|cape|causeway|centers?|centres?|circles?|cir|cliffs?|close|club|common|corners?|course|courts?"
    "|ct|coves?|creek|crescent|cres|crest|crossing|crossroads?|curve|dale|dam|divide|drives?|dr|estates?|expressway"
    "|expy|extensions?|falls|ferry|fields?|flats?|fords?|forest|forges?|forks?|fort|freeway|fwy|gardens?|gdns|gateway"
    "|glens?|greens?|groves?|harbors?|haven|heights|hts|highway|hwy|hills?|hollow|inlet|islands?|isle|junctions?|keys?"
    "|knolls?|lakes?|land|landing|lane|ln|lights?|loaf|locks?|lodge|loop|mall|manors?|meadows?|mews|mills?|mission"
    "|motorway|mount|mountains?|neck|orchard|oval|overpass|parade|parks?|parkways?|pkwy|pass|passage|path|pike|pines?"
    "|place|pl|plains?|plaza|plz|points?|ports?|prairie|quay|radial|ramp|ranch|rapids?|rest|ridges?|rise|river|roads?"
    "|rd|route|row|run|shoals?|shores?|skyway|springs?|spurs?|squares?|sq|stations?|sta|stravenue|streams?|streets?|st"
    "|summit|terrace|ter|throughway|trace|track|trafficway|trails?|trailer|tunnel|turnpike|underpass|unions?|valleys?"
    "|viaduct|views?|villages?|ville|vista|walks?|wall|way|ways|wells?|wharf|yard"
)
_PLAIN = (
    "avenue|ave|boulevard|blvd|close|court|crescent|drive|highway|hwy|lane|parkway|place|road|rd|square|street|st"
    "|terrace|trail"
)
"""Suffixes that are also found in lower case."""
_SUFFIX_WORDS, _PLAIN_SUFFIXES = beginnings(_SUFFIXES), beginnings(_PLAIN)
_UNIT = (
    r"(?:,? {0,2}\n?(?:apt|apartment|suite|ste|unit|flat|fl|floor|room|rm|bldg|building|box|top|stiege|tür|app"
    r"|appt|piso|int|lok|m|bte|bus|et|[a-z]?#)"
    r"\.? ?(?:no\.? ?)?[\da-z]{1,6}(?:[-/]\d{1,4})?(?!\w)"
    r"|, \d{1,2}[º°ª]\.? ?(?:[a-z]|izq\w{0,6}\.?|dch\w{0,4}\.?|dcha|centro)?(?!\w))?"
)
_NAME = rf"[{UPPER}][\w'\u2019.\-]{{0,30}}"
_TOWN = rf"{_NAME}(?:[ -](?:{_NAME}|am|an der|im|in|de|del|la|le|les|sur|sous|upon|under|on|i|w|nad)){{0,3}}"
_STATE = (
    r"(?:[A-Z]{2}|Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii"
    r"|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota"
    r"|Mississippi|Missouri|Montana|Nebraska|Nevada|New [HJMY]\w{1,9}|North \w{6,8}|South \w{6,8}|Ohio|Oklahoma|Oregon"
    r"|Pennsylvania|Rhode Island|Tennessee|Texas|Utah|Vermont|Virginia|Washington|West Virginia|Wisconsin|Wyoming|NSW"
    r"|VIC|QLD|TAS|ACT)"
)
_UK_CODE = r"(?:GIR ?0AA|[A-PR-UWYZ](?:\d[A-HJKPSTUW\d]?|[A-HK-Y]\d[ABEHMNPRV-Y\d]?) ?\d[ABD-HJLNP-UW-Z]{2})"
_CANADA_CODE = r"[ABCEGHJ-NPRSTVXY]\d[ABCEGHJ-NPRSTV-Z][ -]?\d[ABCEGHJ-NPRSTV-Z]\d"
_BREAK = r"[,;]? {0,2}\n?\s{0,2}"
_TAIL = (
    rf"(?:{_BREAK}(?:"
    # town, state, code
    rf"{_TOWN}{_BREAK}(?:{_UK_CODE}|(?:,? ?{_STATE})?[, \n]{{0,4}}(?:{_CANADA_CODE}|\d{{4,5}}(?:-\d{{4}})?))"
    rf"|(?:{_UK_CODE}|{_CANADA_CODE})"
    # code, town
    rf"|(?:[A-Z]{{1,2}}[- ])?(?:\d{{5}}|\d{{4}}(?: ?[A-Z]{{2}})?|\d{{2}}-\d{{3}}|\d{{3}} \d{{2}}"
    rf"|\d{{4}}-\d{{3}}){_BREAK}{_TOWN}"
    r")(?!\w))?"
)
_HOUSE = (
    r"\d{1,4} ?(?:[a-zA-Z](?!\w))?(?: ?[-/\u2013] ?\d{1,4}[a-zA-Z]?){0,2}(?![\w%€$£]| ?(?:uhr|h|o'clock|euro?s?|minut"
    r"|stück|st(?:k|ück)))"
)
_COMPOUNDS = (
    r"[sS]tra(?:ß|ss)e|[sS]tr\.|weg|[pP]latz|[aA]llee|gasse|ring|damm|ufer|chaussee|steig|stieg|graben|kamp|zeile"
    r"|twiete|pfad|redder"
    "|straat|laan|plein|gracht|kade|singel|dijk|dreef|steeg|plantsoen"
    "|gatan|vägen|gränd|torget|allén|stigen|backen|gata|gade|vej|allé|stræde|plads|vænget|toften|gaten|veien|vegen"
    "|vejen|alle|stræde|gaden|strædet|vænge|gårdsvej|bakken|intie|antie|entie|ontie|katu|kuja|polku|kaari|aukio"
    "|utca|utcája|gata|vegur"
    "|stígur|braut|cesta|ulica|ulice"
)
_STREET_WORDS = (
    r"stra(?:ß|ss)e|str\.|weg|allee|gasse|damm|ufer|straat|laan|plein|gracht|kade|gata|väg|gatan|vägen|gade|vej"
    r"|allé|stræde|gate|vei"
    "|katu|tie|utca|út|tér|körút|ulica|ulice|cesta|caddesi|sokak|sok\\.|cad\\.|iela|gatvė|tänav"
)
_PREFIXES = (
    r"rue|avenue|av\.?|boulevard|bd\.?|place|chemin|ch\.|allées?|impasse|quai|route|cours|square|passage|sentier"
    r"|ruelle|villa|faubourg"
    r"|via|viale|v\.le|piazza|p\.zza|piazzale|corso|c\.so|vicolo|largo|strada|lungomare|contrada|borgo|rotonda"
    r"|calle|c/|cl\.?|avda\.?|avenida|avd?\.?|plaza|pza\.?|paseo|p\.º|camino|carretera|ctra\.?|ronda|traves[íi]a"
    r"|glorieta|callej[óo]n|cuesta|rambla|urbanizaci[óo]n|pasaje|vial"
    r"|rua|r\.|travessa|praça|pç\.?|estrada|alameda|rodovia|viela|beco|largo"
    r"|ul\.|ulica|aleja|aleje|al\.|pl\.|plac|os\.|osiedle|ulice|str\.|strada|bulevardul"
)
_PARTICLE = (
    r"(?:de |du |des |de la |de l['\u2019]|de las |de los |del |della |dei |delle |degli |dell['\u2019]|do |da "
    r"|das |dos |d['\u2019]"
    r"|l['\u2019]|la |le |les |el |san |santa |saint |św\. )"
)

_WORD = rf"(?:[{UPPER}][\w'\u2019.\-]{{0,30}}|\d{{1,3}}(?:st|nd|rd|th)|\d{{1,2}}(?= (?:de|di) ))"
_NUMBER_FIRST = re.compile(
    rf"(?<![\w.,/$€£#-])\d{{1,6}}(?:[a-zA-Z]|-\d{{1,4}}|/\d{{1,4}})?,? (?:{_WORD} ){{1,4}}(?i:{_SUFFIXES})\b\.?"
    rf"(?: (?:N|S|E|W|NE|NW|SE|SW|North|South|East|West)\b)?(?i:{_UNIT}){_TAIL}"
)
_STOP = (
    r"(?!(?:of|the|a|an|in|on|at|to|from|for|and|or|with|by|down|up|off|my|your|our|this|that|is|are|was|more|minutes?"
    r"|min|blocks?|miles?|km|meters?|metres?|people|persons?|times?|cars?|lanes?|x|per|years?|days?|hours?|items?"
    r"|pieces?|other|new|long|left|right|way|feet|yards?)\b)"
)
_NUMBER_FIRST_PLAIN = re.compile(
    rf"(?i)(?<![\w.,/$€£#-])\d{{1,6}}[a-z]?,? (?:{_STOP}[a-z0-9À-ž'\u2019.\-]{{1,30}} ){{1,3}}(?:{_PLAIN})\b\.?{_UNIT}"
)
_FRENCH_PREFIXES = (
    r"rue|avenue|av\.?|boulevard|bd\.?|place|chemin|allées?|impasse|quai|route|cours|square|passage|sentier|ruelle"
)
_FRENCH_WORDS = beginnings(_FRENCH_PREFIXES)
_FRENCH = re.compile(
    rf"(?i:(?<![\w.,/-])\d{{1,4}}(?: ?(?:bis|ter|quater|[a-d]))?,? (?:{_FRENCH_PREFIXES}) "
    rf"(?:{_PARTICLE}){{0,2}})(?:[\w'\u2019.\-]{{2,30}})(?: (?:{_PARTICLE}){{0,2}}{_WORD}){{0,4}}{_TAIL}"
)
_STREET_FIRST = re.compile(
    rf"(?<![\w.,/])(?:\d{{1,6}},? )?(?:(?:{_NAME} ){{0,2}}[{UPPER}][\w\-]{{2,30}}?(?:{_COMPOUNDS})"
    rf"|(?:{_NAME} ){{1,3}}(?i:{_STREET_WORDS}))"
    rf"(?:,? {{1,2}}|(?<=\.))(?:nr\.? ?|no\.? ?)?{_HOUSE}(?i:{_UNIT}){_TAIL}"
)
_UNIT_BEGINNINGS = beginnings("apt|apartment|suite|ste|unit|flat", whole=False)
_UNIT_LAST = re.compile(
    rf"(?i)(?<![\w.,/$€£#-])\d{{1,6}}[a-z]?,? (?:{_STOP}[a-z0-9À-ž'\u2019.\-/,]{{1,30}} ){{1,7}}?(?:apt|apartment"
    rf"|suite"
    rf"|ste|unit|flat)\.? ?#?\d{{1,6}}[a-z]?(?!\w)(?-i:{_TAIL})"
)
_STREET_ENDINGS = tuple(
    re.sub(r"\[(.)\1\]", r"\1", word).replace("(?:ß|ss)", sharp_s).replace("\\", "")
    for word in alternatives(f"{_COMPOUNDS}|{_STREET_WORDS}".lower())
    for sharp_s in ("ß", "ss")
)
"""How the street in a match of `_STREET_FIRST` ends, in lower case."""
_ENDING_REACH = 24
"""More than such an ending with the words between it and the house number."""
_HOUSE_FIRST = (
    (_SUFFIX_WORDS, _NUMBER_FIRST),
    (_FRENCH_WORDS, _FRENCH),
    (_PLAIN_SUFFIXES, _NUMBER_FIRST_PLAIN),
    (_UNIT_BEGINNINGS, _UNIT_LAST),
)
"""Patterns that begin with the house number, each with words of which one must follow."""
_LOWER_ENDINGS = (
    *("straße", "strasse", "str.", "gasse", "allee", "platz", "straat", "gracht", "gatan", "vägen", "gade", "vej"),
    *("gata", "gaten", "veien", "katu"),
)
_LOWER_STREET = re.compile(rf"(?i)(?<!\w)\w{{2,30}}(?:{'|'.join(map(re.escape, _LOWER_ENDINGS))}) {_HOUSE}")
_PREFIX_WORDS = AnnouncingWords(_PREFIXES)
_PREFIX_FIRST = re.compile(
    rf"(?<![\w.,/])(?:\d{{1,6}},? )?(?i:{_PREFIXES})(?: "
    rf"|(?<=[./]))(?:(?i:{_PARTICLE})){{0,2}}{_WORD}(?:[ -](?:(?i:{_PARTICLE})){{0,2}}{_WORD}){{0,4}}"
    rf",? {{0,2}}(?:n\.?[º°]? ?|nº ?|nr\.? ?|num\.? ?"
    rf"|snc\b)?(?:\d{{1,4}}(?: ?[-/] ?\d{{1,4}})?(?:/?[a-zA-Z](?!\w))?(?!\w)|s/n)(?i:{_UNIT}){_TAIL}"
)
_LOWER_PREFIXES = r"via|viale|piazza|corso|calle|avenida|avda\.?|plaza|paseo|rua|travessa|ul\.|ulica"
_LOWER_PREFIX = AnnouncedPattern(
    rf"(?i)(?<!\w)(?:{_LOWER_PREFIXES}) (?:{_PARTICLE}){{0,2}}\w"
    rf"[\w'\u2019.]{{2,30}}(?: \w[\w'\u2019.]{{1,30}}){{0,2}},? (?:n\.?[º°]? ?)?{_HOUSE}",
    _LOWER_PREFIXES,
)
_PLACES = r"Am|An der|An den|Auf der|Auf dem|Im|In der|In den|Zum|Zur|Unter den|Hinter der|Vor dem"
_AT_PLACE = AnnouncedPattern(
    rf"(?<!\w)(?:{_PLACES}) {_NAME}(?: {_NAME})? {_HOUSE},? {{0,2}}\n?(?:D-|A-|CH-)?\d{{4,5}} {_TOWN}", _PLACES
)
_BOXES = (
    r"p\.? ?o\.? ?box|post office box|postfach|postbus|bo[îi]te postale|b\.?p\.?|apartado(?: de correos)?"
    r"|casella postale|skr\. poczt\.|postboks|box"
)
_BOX = AnnouncedPattern(
    rf"(?<!\w)(?:(?i:{_BOXES}) ?\d{{1,6}}|(?i:psc|unit|cmr) \d{{1,5}},? (?i:box) \d{{1,5}})"
    rf"(?:{_BREAK}(?:(?i:apo|fpo|dpo) ?,? ?(?:AA|AE|AP)? \d{{5}}(?:-\d{{4}})?))?{_TAIL}",
    rf"{_BOXES}|psc|unit|cmr",
    whole=False,  # a number may follow directly, as in "box12"
)
_MILITARY = re.compile(
    r"(?:(?:USNS|USNV|USS|USCGC) \w{2,20}[, \n]{1,3})?(?i:apo|fpo|dpo),? (?:AA|AE|AP) \d{5}(?:-\d{4})?"
)
# In all of these a capital letter follows a digit, or there are _ZIP_DIGITS.
_CODES = re.compile(rf"(?<!\w)(?:{_UK_CODE}|{_CANADA_CODE})(?!\w)|(?<=, )(?P<s>{_STATE},? \d{{5}}(?:-\d{{4}})?)(?!\w)")
_ZIP_DIGITS = 5
_CODE_WORDS = (
    r"zip(?: ?code)?|postal ?code|post ?code|plz|postleitzahl|code postal|c[óo]digo postal|c\.?p\.?|cap|kod pocztowy"
    r"|postnummer|postcode|cep|psč"
)
_ANNOUNCED_CODE = AnnouncedPattern(
    rf"(?i:(?<!\w)(?:{_CODE_WORDS})\b"
    r"[\s:=#.\-]{0,3}(?:(?:is|number|ist|est|es|è|är|er|e|to|of"
    r"|for)\b[\s:=]{1,3}){0,2})(?P<v>(?:[A-Z]{1,2}-)?\d{2,6}(?:[- ]?\d{2,4})?(?: ?[A-Z]{2}(?!\w))?)(?!\w)",
    _CODE_WORDS,
)


def find_postal_addresses(text: str) -> Iterator[Span]:
    """Find streets with a house number and their unit, postal code and town; post-office boxes; postal codes."""
    indexed_text = index_text(text)
    yield from (match.span() for match in _streets(indexed_text))
    yield from (match.span("v") for match in _ANNOUNCED_CODE.finditer(indexed_text))
    if indexed_text.has_capitals and any(
        "A" <= indexed_text[end : end + 1] <= "Z" or end - start == _ZIP_DIGITS for start, end in indexed_text.runs
    ):
        yield from (match.span("s" if match["s"] else 0) for match in _CODES.finditer(indexed_text))


def _streets(text: IndexedText) -> Iterator[re.Match[str]]:
    for words, pattern in _HOUSE_FIRST:
        if text.starts(words):
            yield from matches_at(pattern, text, text.numbers)
    for announced_pattern in (_AT_PLACE, _BOX, _LOWER_PREFIX):
        yield from announced_pattern.finditer(text)
    if prefixes := _PREFIX_WORDS.starts(text):
        yield from matches_at(_PREFIX_FIRST, text, sorted({*prefixes, *text.numbers}))
    if text.has_capitals:
        if _has_house_number(text):
            yield from _STREET_FIRST.finditer(text)
        if any(office in text.lowered for office in ("apo", "fpo", "dpo")):
            yield from _MILITARY.finditer(text)
    if any(text.lowered.endswith(_LOWER_ENDINGS, 0, start - 1) for start in text.numbers if start):
        yield from _LOWER_STREET.finditer(text)


def _has_house_number(text: IndexedText) -> bool:
    """Return whether a number follows the end of a street as in a match of `_STREET_FIRST`."""
    for start, _ in text.runs:
        before = text.lowered[max(0, start - _ENDING_REACH) : start].rstrip(" ,")
        word = before.removesuffix(".")
        street = word[:-2].rstrip(" ,") if word.endswith(("nr", "no")) else before
        if before.endswith(_STREET_ENDINGS) or street.endswith(_STREET_ENDINGS):
            return True
    return False
