"""Find personal data with the rules of presidio-analyzer: reads a JSON list of texts, prints a JSON list of spans.

The pipeline of spaCy is blank: trained ones are not in a package index. So names and places are not looked for, and
every predefined recognizer of English runs but those that would read the list of top-level domains from the network.
"""

from __future__ import annotations

import json
import sys
import time

import spacy
import tldextract
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import SpacyNlpEngine

SCORE_MIN = 0.35
"""What Presidio's own demo uses; at 0 it replaces every number."""

# The list of top-level domains that the package carries, so that nothing is fetched.
tldextract.extract = tldextract.tldextract.TLDExtract(suffix_list_urls=())
engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
engine.nlp = {"en": spacy.blank("en")}
registry = RecognizerRegistry(supported_languages=["en"])
registry.load_predefined_recognizers(languages=["en"], nlp_engine=engine)
analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
answers = []
for text in json.load(sys.stdin):
    started = time.process_time()
    found = analyzer.analyze(text, language="en", score_threshold=SCORE_MIN)
    elapsed = 1000 * (time.process_time() - started)
    answers.append({"spans": [(each.start, each.end) for each in found], "milliseconds": elapsed})
json.dump(answers, sys.stdout)
