"""Question texts from templates: [a|b] is one of the alternatives, <name> a slot."""

import re

from text_to_sql.schema import is_plural

CHOICE = re.compile(r"\[([^\[\]]*)\]")
SLOT = re.compile(r"<(\w+)>")
QUESTION_WORDS = ("what", "which", "who", "how", "are", "do", "is", "in")


def expand(rng, template, **slots):
    """Chooses among alternatives from the inside out, then fills the slots."""
    while match := CHOICE.search(template):
        template = template[: match.start()] + rng.choice(match.group(1).split("|")) + template[match.end() :]
    return SLOT.sub(lambda match: slots[match.group(1)], template)


def sentence(rng, text):
    """With a capital, and the mark that the first word asks for (now and then carelessly without any)."""
    text = " ".join(text.split())
    asks = text.split(" ")[0].lower().rstrip("'s") in QUESTION_WORDS
    asks = asks or ", how" in text or ", what" in text
    mark = "" if rng.chance(0.04) else "?" if asks else "."
    return text[0].upper() + text[1:] + mark


def article(phrase):
    """The phrase with its indefinite article; a plural has none."""
    if is_plural(phrase):
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def spoken(values):
    """a; a and b; a, b and c."""
    return ", ".join(values[:-1]) + " and " * (len(values) > 1) + values[-1]
