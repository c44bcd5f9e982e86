"""Invented names and closed value lists for the fictional worlds: syllables in, pronounceable unique names out."""

import random
from collections.abc import Callable, Collection, Sequence

# syllables: every name is one START, up to two MIDDLES and one ending of its role
STARTS = (
    "Al An Ar Bal Bel Bir Bor Bra Bren Cal Cor Cre Dal Del Dor Dra Dun El Em Er Fal Fen Fir Fol Gal Gel Gor Gra Gul "
    "Hal Hel Hol Hur Il In Ir Jal Jen Jor Kal Kel Kil Kor Kre Kul Lan Lem Lor Lum Mal Mel Mir Mor Mun Nal Nel Nir Nor "
    "Ol Om Or Os Pal Pel Pir Por Pra Quil Ral Rel Rin Ror Rul Sal Sel Sil Sor Stel Tal Tel Tir Tor Tra Tul Ul Um Ur "
    "Val Vel Vin Vor Wal Wel Wor Yal Yel Yor Zal Zel Zin Zor"
).split()
MIDDLES = (
    "ba be bi bo da de di do du fa fe ga ge go ka ke ki ko la le li lo lu ma me mi mo na ne ni no nu pa pe po ra re "
    "ri ro ru sa se si so ta te ti to tu va ve vi vo za ze zi zo"
).split()
ENDINGS = {
    "first": (
        "da dan del den din dra ga gan gin ka kan kel ko la lan len lin lo ma man mel min na nel nia no ra ram ran "
        "ren ric rin ro sa san sel sin ta tan ten tha tin to va van vel vin wen za"
    ).split(),
    "last": (
        "bak barn bek bran chek dak dek dorn drak dulf gard garth gorn gram hart jak kamp kov kran lak lek lund mak "
        "mark mund nak nesh nik nov rak rask rek rik sand sek sik skar stad strom tak tarn tek thal trak vak vard vek "
        "zak zar"
    ).split(),
    "town": (
        "bay berg bo bruk burn by dal dale dam dolm dun fell field fjord gar gate grad haf ham haven holm holt hurst "
        "kirk land low mar mead mere minster moor mor ness polt ros sund thorp ton vale vik wall wick wold zell"
    ).split(),
    "river": "ba dera dra ga lva mbra na ndra nga nta ra rga rna rva sna sta tra va vra zna".split(),
    "stem": (
        "bex bran cor cron dax dex dic dium dor dox fax gen kor lex lix lon lor max mex mic mir mond mora nex nix nor "
        "pex pol quor rax rex ria rix ron rum tec tex thor tix tor tra tron vax vex via vix von vor xon zor"
    ).split(),
}
LENGTHS = (2, 2, 2, 3)               # syllables of a word, drawn uniformly from this list

TOWN_PREFIXES = "Old New North South Upper Lower Great Little".split()
ORGANISATION_WORDS = (
    "Academy Agency Bank Company Factory Foundry Guild Institute Laboratory Mill Press School Society Trust Union "
    "Workshop"
).split()
PRODUCT_WORDS = (
    "Balance Bicycle Camera Clock Engine Fountain Heater Kettle Lamp Lantern Loom Motor Piano Plough Pump Radio Stove "
    "Telescope Tractor Typewriter"
).split()
POLICY_WORDS = (
    "Absence Archive Loan Leave Overtime Parking Pension Privacy Purchase Refund Rental Safety Training Transport "
    "Travel Visitor Warranty"
).split()
WORK_WORDS = (
    "Autumn Bell Bridge Candle Crown Forest Garden Harbour Island Journey Ladder Mirror Mountain Orchard Promise "
    "Shadow Silence Storm Tower Winter"
).split()

# closed lists: a guess without documents is right once in twenty
CLOSED_VALUES = {
    "occupation": (
        "baker barber brewer butcher carpenter clerk cook dentist doctor farmer fisher gardener lawyer mason miller "
        "nurse painter potter sailor tailor"
    ).split(),
    "goods": (
        "amber barley butter cheese cider coal copper cotton flour glass honey leather linen paper pepper salt silk "
        "tea timber wool"
    ).split(),
    "trade": (
        "banking brewing building dairying dyeing farming fishing forestry insurance logging mapping mining nursing "
        "printing publishing shipping surveying tanning teaching weaving"
    ).split(),
    "material": (
        "aluminium bamboo brass bronze cedar ceramic chrome clay cork granite iron ivory marble nickel oak pewter "
        "pine rubber steel walnut"
    ).split(),
}
# open numbers: lowest, highest, unit written after the number
NUMBER_VALUES = {
    "year": (1600, 1899, ""),
    "population": (100, 9999, ""),
    "staff": (20, 999, ""),
    "pages": (60, 999, ""),
    "price": (10, 999, "crowns"),
    "days": (10, 120, "days"),
}

Parts = tuple[str, str]                # a name in two parts, one of which another name may share; the first may be ""


def join(parts: Parts) -> str:
    """The name as written: "Velda Marsik", "Old Torvik", or "Torvik" where the first part is empty."""
    return f"{parts[0]} {parts[1]}" if parts[0] else parts[1]


def draw_word(rng: random.Random, role: str) -> str:
    """One capitalised invented word of 2 to 4 syllables with the endings of `role` (a key of ENDINGS)."""
    choice = rng.choice
    word = choice(STARTS)
    for _ in range(choice(LENGTHS) - 2):
        word += choice(MIDDLES)
    return word + choice(ENDINGS[role])


def num_words(role: str) -> int:
    """How many different syllable strings `role` can draw (a few spell the same word)."""
    return sum(len(STARTS) * len(MIDDLES) ** (length - 2) * len(ENDINGS[role]) for length in set(LENGTHS))


def draw_value(rng: random.Random, names: "NameMaker", kind: str) -> str:
    """A value of this kind: from its closed list, a number with its unit, or else a fresh name."""
    if kind in CLOSED_VALUES:
        return rng.choice(CLOSED_VALUES[kind])
    if kind in NUMBER_VALUES:
        low, high, unit = NUMBER_VALUES[kind]
        return f"{rng.randint(low, high)} {unit}".rstrip()
    return join(names.fresh(kind))


class NameMaker:
    """Draws names that are unique within one world and never in `exclude`.

    `organisations` are the names that policies belong to; the caller fills it before asking for a policy.
    """

    def __init__(self, rng: random.Random, exclude: Collection[str] = ()) -> None:
        self.rng = rng
        self.exclude = exclude
        self.used: set[str] = set()
        self.organisations: list[str] = []

    def fresh(self, type_: str) -> Parts:
        """A new name of this type that shares a word with no other on purpose."""
        return self._unused(lambda: self._draw(type_))

    def relative(self, type_: str, kin: Sequence[Parts]) -> Parts:
        """A new name that shares one part with a name of `kin`; a fresh one when all such names are taken."""
        return self._unused(lambda: self._draw_relative(type_, kin))

    def _unused(self, draw: Callable[[], Parts]) -> Parts:
        while True:
            parts = draw()
            name = join(parts)
            if name not in self.used and name not in self.exclude:
                self.used.add(name)
                return parts

    def _draw(self, type_: str) -> Parts:
        rng = self.rng
        if type_ == "person":
            return draw_word(rng, "first"), draw_word(rng, "last")
        if type_ in ("place", "river"):
            return "", draw_word(rng, "town" if type_ == "place" else "river")
        if type_ == "policy":
            return self._owner(), f"{rng.choice(POLICY_WORDS)} Policy"
        return draw_word(rng, "stem"), rng.choice(SECOND_WORDS[type_])

    def _owner(self) -> str:
        # some policies belong to organisations without a document of their own, so the names never run out
        if not self.organisations or self.rng.random() < 0.3:
            self.organisations.append(join(self.fresh("organisation")))
            return self.organisations[-1]
        return self.rng.choice(self.organisations)

    def _draw_relative(self, type_: str, kin: Sequence[Parts]) -> Parts:
        rng = self.rng
        # one draw in eight is fresh, so that the search ends even when every relative is taken
        if not kin or rng.random() < 0.125:
            return self._draw(type_)
        first, second = rng.choice(kin)
        if type_ == "place":
            return rng.choice(TOWN_PREFIXES), second
        new_first, new_second = self._draw(type_)
        if type_ != "person":
            return first, new_second
        if rng.random() < 0.3:
            return first, rng.choice(kin)[1]
        return (first, new_second) if rng.random() < 0.5 else (new_first, second)


SECOND_WORDS = {"organisation": ORGANISATION_WORDS, "product": PRODUCT_WORDS, "work": WORK_WORDS}
