"""Texts unlike a till's training data: other languages, noise, single letters, questions to other shops and offices."""

from __future__ import annotations

import random
import string

GERMAN = (
    "Ich möchte mein Geld zurück",
    "Kann ich die Schuhe in Größe 42 umtauschen?",
    "Was kostet der Wasserkocher?",
    "Haben Sie das auch in Blau?",
    "Wie lange haben Sie heute geöffnet?",
    "Kann ich mit Karte zahlen?",
    "Wo finde ich die Batterien?",
    "Ich habe meine Kundenkarte vergessen",
    "Der Toaster ist nach zwei Tagen kaputtgegangen",
    "Gibt es darauf noch Rabatt?",
    "Können Sie mir das als Geschenk einpacken?",
    "Wann kommt die neue Lieferung?",
    "Ich brauche bitte eine Rechnung",
    "Das Preisschild stimmt nicht",
    "Ist der Laden am Sonntag offen?",
    "Haben Sie eine Toilette für Kunden?",
    "Der Kassenbon ist leider weg",
    "Kann man den Kaffee auch entkoffeiniert bekommen?",
    "Bitte stornieren Sie meine Bestellung",
    "Wie viele Punkte habe ich gesammelt?",
)
FRENCH = (
    "Je voudrais être remboursé",
    "Puis-je échanger ces chaussures contre une autre taille ?",
    "Combien coûte la bouilloire ?",
    "Vous l'avez aussi en bleu ?",
    "À quelle heure fermez-vous ce soir ?",
    "Est-ce que je peux payer par carte ?",
    "Où sont les piles, s'il vous plaît ?",
    "J'ai oublié ma carte de fidélité",
    "Le grille-pain est tombé en panne après deux jours",
    "Il y a une remise là-dessus ?",
    "Pouvez-vous me faire un paquet cadeau ?",
    "Quand arrive la prochaine livraison ?",
    "Il me faudrait une facture",
    "L'étiquette du prix n'est pas correcte",
    "Le magasin est ouvert le dimanche ?",
    "Y a-t-il des toilettes pour les clients ?",
    "J'ai perdu le ticket de caisse",
    "Avez-vous du café décaféiné ?",
    "Annulez ma commande, s'il vous plaît",
    "Combien de points ai-je sur ma carte ?",
)
OTHER_SHOPS = (
    "My brakes squeak when it rains, can you take a look on Friday?",
    "Rotate the tyres and check the coolant please",
    "The dog has not eaten since yesterday, is that dangerous?",
    "Book a root canal with the dentist for next week",
    "Is this cough syrup safe together with ibuprofen?",
    "Renew my prescription for blood pressure tablets",
    "I want to reserve a table for six at eight",
    "Does the risotto contain nuts?",
    "A double room with a sea view for three nights",
    "Please wake me at half past five tomorrow",
    "Trim the sides and leave the top a bit longer",
    "How long does a balayage take?",
    "My flight to Lisbon was cancelled, rebook me",
    "Which platform does the train to Leeds leave from?",
    "I need planning permission for a garage",
    "When does the library return slot get emptied?",
    "Transfer 200 pounds to my savings account",
    "My card was swallowed by the cash machine",
    "What is the interest rate on a ten year mortgage?",
    "The router blinks red and there is no internet",
    "Upgrade my data plan before I travel to Japan",
    "How do I file a claim for hail damage?",
    "Enrol my daughter in the beginner swimming course",
    "The gym's rowing machine is broken",
    "Remind me to water the plants on Tuesday",
    "Turn off the lights in the hall",
    "Play some jazz in the kitchen",
    "How many prime numbers are there between 0 and 100?",
    "Translate good morning into Japanese",
    "Who won the world cup in 1998?",
)
LETTERS = tuple(string.ascii_lowercase + string.digits)
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890")
_NOISE, _SEED = 40, 7


def keyboard_noise() -> list[str]:
    """Return what a cat on a keyboard writes: runs of neighbouring keys, with a space here and there."""
    chance = random.Random(_SEED)  # noqa: S311 - no secret
    return [" ".join(_run(chance) for _ in range(chance.randint(1, 4))) for _ in range(_NOISE)]


def _run(chance: random.Random) -> str:
    row = chance.choice(_ROWS)
    return "".join(chance.choice(row) for _ in range(chance.randint(3, 9)))
