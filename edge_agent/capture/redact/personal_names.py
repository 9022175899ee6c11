"""Names of people where the words around them tell: behind a title, a greeting, "my name is", a closing formula.

A name alone is not found: that takes a model. The words are those of eleven languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.capture.redact.rule_types import UPPER, Span

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
_TITLED = re.compile(
    rf"(?<!\w)(?:{_TITLE}|frau|herrn?|mevrouw|meneer|signora?|señora?|madame|monsieur|pani|senhora?|fru)\.? (?:(?:Dr"
    rf"|Prof|med|h\.c|Dipl|Ing)\.? ){{0,3}}(?P<v>{_NAME})(?!\w)"
)
# "Pan" is also bread, and a kitchen tool: the surname has to have a Polish ending.
_POLISH_MAN = re.compile(
    rf"(?<!\w)[Pp]an (?P<v>(?:{_PART} )?[{UPPER}]\w{{1,30}}(?:ski|cki|dzki|wicz|czyk|czak|iak|arz))(?!\w)"
)
_GREETED = re.compile(
    rf"(?<!\w)(?:Hi|Hello|Hey|Dear|Liebe|Lieber|Hallo|Bonjour|Salut|Chère|Cher|Hola|Querid[oa]|Estimad[oa]|Ciao"
    rf"|Car[oa]|Gentile|Beste|Geachte|Dzień dobry|Cześć|Drog[ia]|Hej|Kære|Hei|Olá|Oi|Thanks|Thank you|Danke|Merci"
    rf"|Gracias|Grazie|Best|Good (?:morning|afternoon|evening)),? (?P<v>{_NAME})(?=[,!:.;]|\n|$| -| \u2013)"
)
_SAID = re.compile(
    r"(?i:(?<!\w)(?:my (?:full )?name(?:['\u2019]s| is)|name of the patient(?: is)?"
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
    r"|hälsningar|hilsen|cumprimentos))"
    rf"[ ]?[:,]?\s{{1,2}})(?P<v>{_NAME})(?!\w)"
)
_LOWER = re.compile(
    r"(?i)(?<!\w)(?:my (?:full )?name(?:['\u2019]s| is)|ich hei(?:ß|ss)e|mein name ist|je m['\u2019]appelle"
    r"|mon nom est"
    r"|me llamo|mi nombre es|mi chiamo|il mio nome è|ik heet|mijn naam is|nazywam się|jag heter|mitt namn är"
    r"|jeg hedder|mit navn er|jeg heter|o meu nome é|chamo-me)"
    r":? (?P<v>[^\W\d_]{2,20}(?:[-'\u2019][^\W\d_]{1,20})?(?: (?!(?:and|und|et|y|e|en|i|och|og|ja|on|is|not|with|from"
    r"|aus|de|my|ich|und|je|the|a|an|at|in|to|for|please|bitte|pas|nicht|spelled|but|aber)(?!\w))[^\W\d_]{2,20})?)"
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
    """Find names of up to four parts behind a title, a greeting or an introduction, and below a closing formula."""
    for pattern in (_TITLED, _POLISH_MAN, _GREETED, _SAID, _LOWER):
        for match in pattern.finditer(text):
            first = _FIRST_WORD.match(match["v"])
            if first and not _NO_NAME.match(first[0]):
                yield match.span("v")
