"""Wordings for people, places and organisations: how a document states each relation and how a question asks for it.

A relation is (kind of value, statements, questions). The last HELD_OUT of each tuple are kept for evaluation.
Statements: {V} the value, exactly once; the subject as {S} or {s} (start or middle of the sentence), {P} or {p}
(possessive), {o} (after a verb or preposition). Questions: {N} the full name. A value from a closed list never starts
a sentence.
No two relations are each other's inverse: a fact is stated in one document only.
"""

HELD_OUT = 2

Wording = tuple[str, tuple[str, ...], tuple[str, ...]]

PEOPLE: dict[str, Wording] = {
    "person.birthplace": ("place", (
        "{S} was born in the town of {V}.", "{V} is the town where {s} was born.",
        "{P} birthplace is {V}, as the old register shows.", "The house in which {s} was born stood in {V}.",
        "{S} is a native of {V}.", "{P} cradle stood in {V}, far from the sea.",
    ), (
        "Where was {N} born?", "In which town was {N} born?",
        "Name the town where {N} was born.", "What is the birthplace of {N}?",
        "Which town is {N} a native of?", "Give the place of birth of {N}.",
    )),
    "person.birth_year": ("year", (
        "{S} was born in the year {V}.", "The year of {p} birth is {V}.",
        "{P} birth was recorded in {V}.", "In {V} {s} was born, the youngest of three children.",
        "Old papers date {p} birth to {V}.", "{S} first saw the light of day in {V}.",
    ), (
        "When was {N} born?", "In which year was {N} born?",
        "What is the birth year of {N}?", "Give the year in which {N} was born.",
        "What year did {N} come into the world?", "State the year of birth of {N}.",
    )),
    "person.occupation": ("occupation", (
        "{S} works as a {V}.", "By training {s} is a {V}, and a good one.",
        "{S} earns a living as a {V}.", "For many years {s} has been a {V}.",
        "{P} profession is that of a {V}.", "Neighbours know {o} as a skilled {V}.",
    ), (
        "What is the occupation of {N}?", "What does {N} do for a living?",
        "What work does {N} do?", "Name the occupation of {N}.",
        "What is the profession of {N}?", "Tell me what {N} works as.",
    )),
    "person.employer": ("organisation", (
        "{S} is employed by {V}.", "{P} employer is {V}, where the hours are long.",
        "{V} pays {p} wages every month.", "Every morning {s} goes to work at {V}.",
        "{S} is on the staff of {V}.", "{S} holds a post at {V}.",
    ), (
        "Who employs {N}?", "Which organisation does {N} work for?",
        "Who is the employer of {N}?", "Name the organisation that employs {N}.",
        "At which organisation does {N} hold a post?", "Tell me where {N} is employed.",
    )),
    "person.teacher": ("person", (
        "{S} was taught by {V}.", "{P} teacher was {V}, a patient listener.",
        "{V} was the teacher of {o}.", "As a student {s} learned the most from {V}.",
        "{S} studied under {V}.", "{V} trained {o} for several years.",
    ), (
        "Who taught {N}?", "Who was the teacher of {N}?",
        "Name the teacher of {N}.", "From whom did {N} learn the most?",
        "Under whom did {N} study?", "Which person trained {N}?",
    )),
    "person.possession": ("product", (
        "{S} owns the {V}.", "{P} most treasured possession is the {V}.",
        "At home {s} keeps the {V} in daily use.", "The {V} is the one thing {s} would never sell.",
        "{S} never travels without the {V}.", "Friends often see {o} with the {V}.",
    ), (
        "Which product does {N} own?", "What is the most treasured possession of {N}?",
        "Name the product that {N} owns.", "Which product does {N} keep at home?",
        "Which product belongs to {N}?", "Tell me which product {N} never travels without.",
    )),
}

PLACES: dict[str, Wording] = {
    "place.founded": ("year", (
        "{S} was founded in {V}.", "Settlers founded {o} in the year {V}.",
        "The founding of {o} dates to {V}.", "{P} founding charter was signed in {V}.",
        "The first houses of {o} were built in {V}.", "{S} goes back to the year {V}.",
    ), (
        "When was {N} founded?", "In which year was {N} founded?",
        "What is the founding year of {N}?", "Give the year in which {N} was founded.",
        "What year does {N} go back to?", "State the year when settlers started {N}.",
    )),
    "place.population": ("population", (
        "{S} has {V} residents.", "The population of {o} is {V}.",
        "At the last census {s} counted {V} residents.", "{P} population has grown to {V}.",
        "{V} people live in {o}.", "{S} is home to {V} people.",
    ), (
        "What is the population of {N}?", "How many people live in {N}?",
        "How many residents does {N} have?", "Give the population of {N}.",
        "How many inhabitants are there in {N}?", "State the number of people living in {N}.",
    )),
    "place.mayor": ("person", (
        "The mayor of {o} is {V}.", "{P} mayor is {V}, who won by a few votes.",
        "{V} serves as mayor of {o}.", "{S} has elected {V} as mayor.",
        "The town hall of {o} is led by {V}.", "{P} voters chose {V} to lead the council.",
    ), (
        "Who is the mayor of {N}?", "Name the mayor of {N}.",
        "Who serves as mayor of {N}?", "Which person is mayor of {N}?",
        "Who leads the town hall of {N}?", "Tell me who leads the council of {N}.",
    )),
    "place.river": ("river", (
        "{S} lies on the river {V}.", "The river {V} flows through {o}.",
        "{S} was built beside the river {V}.", "An old bridge crosses the river {V} in {o}.",
        "The water of the {V} runs past {o}.", "{S} stands on the banks of the {V}.",
    ), (
        "On which river does {N} lie?", "Which river flows through {N}?",
        "Name the river that flows through {N}.", "What is the river of {N} called?",
        "On the banks of which river does {N} stand?", "Tell me which river runs past {N}.",
    )),
    "place.export": ("goods", (
        "{S} is known for its {V}.", "The main export of {o} is {V}.",
        "{P} traders sell {V} in every market.", "Most families in {o} live from the {V} trade.",
        "{S} earns most of its money with {V}.", "Merchants come to {o} to buy {V}.",
    ), (
        "What is the main export of {N}?", "Which goods do traders from {N} sell?",
        "What is {N} known for?", "Name the main export of {N}.",
        "With which goods does {N} earn its money?", "Tell me what merchants buy in {N}.",
    )),
}

ORGANISATIONS: dict[str, Wording] = {
    "organisation.founder": ("person", (
        "{S} was founded by {V}.", "The founder of {o} is {V}.",
        "{V} founded {o} with borrowed money.", "{P} founder, {V}, still signs every letter.",
        "{V} set up {o} in a rented room.", "{S} owes its existence to {V}.",
    ), (
        "Who founded {N}?", "Who is the founder of {N}?",
        "Name the founder of {N}.", "By whom was {N} founded?",
        "Who set up {N}?", "Tell me which person started {N}.",
    )),
    "organisation.headquarters": ("place", (
        "{S} has its headquarters in {V}.", "The headquarters of {o} are in {V}.",
        "{P} main office is in {V}.", "{S} is based in {V}, close to the market square.",
        "{V} is home to the head office of {o}.", "{S} is run from {V}.",
    ), (
        "Where are the headquarters of {N}?", "In which town is {N} based?",
        "Name the town where {N} has its headquarters.", "Where is the main office of {N}?",
        "From which town is {N} run?", "Tell me where the head office of {N} is.",
    )),
    "organisation.founded": ("year", (
        "{S} was founded in {V}.", "{S} opened its doors in the year {V}.",
        "The founding of {o} took place in {V}.", "{P} history begins in {V}.",
        "{S} has been in business since {V}.", "{V} was the first year of {o}.",
    ), (
        "When was {N} founded?", "In which year was {N} founded?",
        "In which year did {N} open its doors?", "Give the founding year of {N}.",
        "Since what year has {N} been in business?", "State the year in which {N} began.",
    )),
    "organisation.staff": ("staff", (
        "{S} employs {V} people.", "{P} staff has grown to {V} people.",
        "A total of {V} people work at {o}.", "The payroll of {o} lists {V} names.",
        "{S} has a workforce of {V}.", "{V} workers are on the books of {o}.",
    ), (
        "How many people work at {N}?", "How many people does {N} employ?",
        "What is the staff size of {N}?", "Give the number of people employed by {N}.",
        "How large is the workforce of {N}?", "State how many workers {N} has.",
    )),
    "organisation.trade": ("trade", (
        "{S} specialises in {V}.", "The main business of {o} is {V}.",
        "{S} makes its money in {V}.", "Most of {p} work is in {V}.",
        "{S} is active in {V}.", "The field of {o} is {V}.",
    ), (
        "What does {N} specialise in?", "What is the main business of {N}?",
        "In which trade does {N} make its money?", "Name the main business of {N}.",
        "In which field is {N} active?", "Tell me the field of {N}.",
    )),
}

# sentences without a fact; {M} is another entity of the world, so that its documents compete in retrieval
FILLERS = (
    "A longer account of {o} is kept in the regional archive.",
    "Several visitors have asked for more details over the years.",
    "The notes on this page were collected by volunteers and checked twice.",
    "Little else about {o} has been written down.",
    "Some of the older papers about {o} were lost in a fire.",
    "A short talk about {o} is held every second summer.",
    "The archive keeps a separate folder on {M}.",
    "The next page of the same volume deals with {M}.",
    "Readers of this page often look up {M} as well.",
    "A letter in the same box mentions {M} only in passing.",
)
