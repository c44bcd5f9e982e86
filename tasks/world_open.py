"""Relations that no list has: "the annual fee of the Orrin Lamp", put together anew for every world.

A model that knows thirty relations by heart has their wordings in its weights. Here the words of the question stand in
the document, and finding them there is the only way, as it is with documents that nobody prepared.
"""

import random
from collections.abc import Collection

from tasks.world_names import CLOSED_VALUES, NUMBER_VALUES
from tasks.world_templates import Wording

# the last quarter of each list is kept for evaluation
_HELD_OUT_SHARE = 4
_NOUNS = (
    "address alarm allowance anchor badge balance battery bearing belt blade border bottle branch budget button cable "
    "capacity captain card category charge chart circuit clause code collar contact cost coverage cover crew "
    "customer cycle damage deadline dealer default degree delay deposit depth diameter discount display distance door "
    "driver duration emblem engine entrance estimate exit fabric factor failure fee filter fine finish flag floor fuel "
    "gate gauge grade grant guard guest handle height host index inspector interest interval invoice journal key label "
    "length lens level licence limit lining load lock logo margin mark mascot measure medal member method mode "
    "motto neighbour node notice number object offer option origin output panel partner password patron payment "
    "penalty period permit phone pilot plate platform point port position pressure prize process profit project pump "
    "quota range rate ratio reason record refund region rent reply report reserve result reward ring route rule salary "
    "sample scale schedule score screen season seat secretary sensor series shape shift signal slogan source "
    "speed sponsor staircase storage style subject successor supplier supply surface switch symbol target "
    "tariff tax term test threshold tool towel track treasurer trigger turnover unit valve version view visitor "
    "voltage volume voucher wage warning weight wheel width window wing witness yield zone"
).split()
_ADJECTIVES = (
    "annual approved average basic central common daily direct double early emergency estimated external final first "
    "fixed former free full general heavy initial internal joint largest last late legal local long lower main maximum "
    "medium minimum monthly national net new normal official old open outer partial permanent planned primary private "
    "public regional regular second secondary short single special spare standard summer temporary third total typical "
    "upper usual weekly winter yearly"
).split()
# values that no list has either: "40 belts", "spare valve"
OPEN_VALUES = ("amount", "thing")
_KINDS = (*CLOSED_VALUES, *NUMBER_VALUES, "place", "person", "organisation", "product", *OPEN_VALUES * 5)
_STATEMENTS = (
    "The {R} of {o} is {V}.", "{P} {R} is {V}.", "For {o} the {R} is {V}, as everybody knows.",
    "{S} has {V} as the {R}.", "When asked about {p} {R}, people say {V}.", "The {R} given for {o} is {V}.",
    "As for {p} {R}, it is {V}.", "The register has {V} as the {R} of {o}.",
)
_QUESTIONS = (
    "What is the {R} of {N}?", "Give the {R} of {N}.", "Which {R} does {N} have?", "{N}: {R}?",
    "Tell me the {R} of {N}.", "What {R} is given for {N}?",
    "I would like to know the {R} of {N}.", "What do the documents say about the {R} of {N}?",
)
# and one by the kind of value
_ASKED_BY_KIND = {
    "person": "Who is the {R} of {N}?", "organisation": "Who is the {R} of {N}?", "place": "Where is the {R} of {N}?",
    "year": "When is the {R} of {N}?", "price": "How much is the {R} of {N}?", "amount": "How much is the {R} of {N}?",
    "days": "How long is the {R} of {N}?",
}


def open_relations(seed: int, kinds: Collection[str], number: int, words: str) -> dict[str, Wording]:
    """`number` relations for each kind of entity, "product.annual_fee", with their wordings; `words`: "train",
    "held_out" (nouns and adjectives that training never combines) or "all". Same arguments, same relations.
    """
    rng = random.Random(f"open relations {seed}")
    nouns, adjectives = _part(_NOUNS, words), _part(_ADJECTIVES, words)
    table: dict[str, Wording] = {}
    for kind in kinds:
        for noun in rng.sample(nouns, min(number, len(nouns))):
            words_of = f"{rng.choice(adjectives)} {noun}" if rng.random() < 0.5 else noun
            value = rng.choice(_KINDS)
            questions = (*([_ASKED_BY_KIND[value]] if value in _ASKED_BY_KIND else []), *_QUESTIONS)
            table[f"{kind}.{words_of.replace(' ', '_')}"] = (
                value, tuple(text.replace("{R}", words_of) for text in _STATEMENTS),
                tuple(text.replace("{R}", words_of) for text in questions))
    return table


def open_value(rng: random.Random, kind: str, words: str) -> str:
    """A value of one of OPEN_VALUES; `words` as for open_relations."""
    noun = rng.choice(_part(_NOUNS, words))
    if kind == "thing":
        return f"{rng.choice(_part(_ADJECTIVES, words))} {noun}"
    # most units of measure end so; numbers of any length
    return f"{rng.randint(2, 10 ** rng.randint(1, 4))} {noun}{'' if noun.endswith(('s', 'x', 'h', 'y')) else 's'}"


def _part(listed: list[str], words: str) -> list[str]:
    # every fourth, so that the kept words are not those of the end of the alphabet
    if words == "all":
        return listed
    return [word for place, word in enumerate(listed) if (place % _HELD_OUT_SHARE == 0) == (words == "held_out")]
