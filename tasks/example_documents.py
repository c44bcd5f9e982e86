"""Ten example documents of different topics, with questions whose answers stand in them word for word.

All names, places and numbers are invented. They show the document format, and give every script something to run on.
"""

from typing import Any

SOURCE = "nanochat-rag example"

# title, topic, content, then (question, answer) pairs; every answer is a span of the content
_EXAMPLES: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    (
        "Return Policy",
        "shop",
        "Customers of Larkfield Outdoor can return items within 30 days of purchase with the original receipt. The"
        " item must be unused and in its packaging. Refunds are processed within 5 business days and go back to "
        "the card that was used to pay. Items bought in the winter sale can be exchanged but not refunded. Boots "
        "and climbing harnesses cannot be returned once they have been worn, for safety reasons. To start a "
        "return, write to the returns desk and include the order number; the desk sends a prepaid label by e-mail."
        " A damaged parcel should be reported within 48 hours, with a photograph of the damage.",
        [
            ("How long do customers have to return an item?", "within 30 days of purchase"),
            ("How quickly does Larkfield Outdoor process refunds?", "within 5 business days"),
            ("What can be done with items bought in the winter sale?", "exchanged but not refunded"),
            ("When should a damaged parcel be reported?", "within 48 hours"),
        ],
    ),
    (
        "Shipping Information",
        "shop",
        "Larkfield Outdoor ships from its warehouse in Marrow Bay. Shipping is free for orders over 60 dollars; "
        "below that it costs 4 dollars. Standard delivery takes 3 to 5 business days. Express delivery arrives the"
        " next working day if the order is placed before 2 pm, and costs 12 dollars. Kayaks and tents for more "
        "than six people are sent by freight, and the carrier calls to agree on a day. Parcels can be tracked with"
        " the number in the confirmation e-mail. Orders to the islands take up to 9 business days because the "
        "ferry sails twice a week.",
        [
            ("Where is the warehouse of Larkfield Outdoor?", "Marrow Bay"),
            ("From what order value is shipping free?", "60 dollars"),
            ("What does express delivery cost?", "12 dollars"),
            ("How are kayaks sent?", "by freight"),
        ],
    ),
    (
        "Account Creation",
        "software",
        "To create an account on the Penwick learning portal, click Sign Up and enter your e-mail address. A "
        "confirmation message arrives within ten minutes; its link is valid for 24 hours. Passwords need at least "
        "12 characters. After five failed attempts to sign in, the account is locked for half an hour. Teachers "
        "can ask the help desk for a class code, which lets up to 40 pupils join a course without an e-mail "
        "address. Accounts that nobody has used for two years are deleted, after a reminder has been sent. Two-"
        "step sign-in can be switched on under Settings, then Security.",
        [
            ("How many characters must a password on the Penwick portal have?", "at least 12 characters"),
            ("How long is the confirmation link valid?", "24 hours"),
            ("What happens after five failed attempts to sign in?", "the account is locked for half an hour"),
            ("Where is two-step sign-in switched on?", "under Settings, then Security"),
        ],
    ),
    (
        "Visiting the Tidewater Museum",
        "museum",
        "The Tidewater Museum in Port Ellery shows ships, nets and lighthouse lamps from three centuries. It is "
        "open from Tuesday to Sunday, 10 am to 6 pm, and closed on Mondays. Adults pay 9 dollars, students pay 5 "
        "dollars, and children under 12 enter free. On the first Thursday of each month the museum stays open "
        "until 9 pm. Its oldest object is a bronze diving bell made in 1742. Guided tours start at 11 am in the "
        "entrance hall and last an hour. Photographs are welcome without a flash. The museum was founded by the "
        "retired pilot Odessa Crane, who gave her own collection of charts.",
        [
            ("On which day is the Tidewater Museum closed?", "Mondays"),
            ("What is the oldest object in the Tidewater Museum?", "a bronze diving bell made in 1742"),
            ("Who founded the Tidewater Museum?", "the retired pilot Odessa Crane"),
            ("Where do guided tours start?", "in the entrance hall"),
        ],
    ),
    (
        "Caring for a Sourdough Starter",
        "kitchen",
        "A sourdough starter is flour and water in which wild yeast lives. Kept on the kitchen shelf it is fed "
        "once a day; kept in the refrigerator, once a week is enough. To feed it, discard all but 50 grams, then "
        "stir in 50 grams of flour and 50 grams of water. It is ready for baking when it doubles within six hours."
        " Rye flour wakes a tired starter faster than white flour. A grey liquid on top only means that it is "
        "hungry: pour the liquid off and feed it. Pink or orange streaks are a sign of spoilage, and then the "
        "starter must be thrown away.",
        [
            ("How often is a starter in the refrigerator fed?", "once a week"),
            ("Which flour wakes a tired starter faster?", "Rye flour"),
            ("What do pink or orange streaks mean?", "a sign of spoilage"),
        ],
    ),
    (
        "Bicycle Service Intervals",
        "workshop",
        "The Gearhouse workshop recommends a small service every 1,500 kilometres and a full service every 5,000 "
        "kilometres. In a small service the mechanic cleans and oils the chain, checks the brakes and sets the "
        "tyre pressure; it costs 35 dollars and takes a day. The full service adds new cables and a check of the "
        "bearings. A chain should be replaced when it has stretched by 0.75 percent, otherwise it wears down the "
        "sprockets. City tyres are ridden at 4 bar. Electric bicycles need a software check once a year, which "
        "only the branch on Copper Street can do.",
        [
            ("How often does Gearhouse recommend a full service?", "every 5,000 kilometres"),
            ("What does a small service cost?", "35 dollars"),
            ("At what pressure are city tyres ridden?", "4 bar"),
            ("Which Gearhouse branch can check electric bicycles?", "the branch on Copper Street"),
        ],
    ),
    (
        "Library Lending Rules",
        "library",
        "Members of the Brindle Valley Library may borrow 15 books at a time for four weeks. Films and games can "
        "be kept for one week. A loan can be renewed twice unless another reader is waiting. The late fee is 20 "
        "cents a day for each book, and never more than 6 dollars. The reading room on the second floor is silent;"
        " groups meet in the glass room, which is booked at the front desk. Old newspapers of the valley are kept "
        "on film and go back to 1888. The book bus stops in the village of Thornley every Wednesday.",
        [
            ("How many books may a member borrow at a time?", "15 books"),
            ("How long can films be kept?", "one week"),
            ("How far back do the old newspapers of the valley go?", "1888"),
            ("When does the book bus stop in Thornley?", "every Wednesday"),
        ],
    ),
    (
        "Composting at Home",
        "garden",
        "A good compost heap mixes two parts of brown material, such as dry leaves and cardboard, with one part of"
        " green material, such as kitchen scraps and grass. It should feel like a wrung-out sponge. Turning the "
        "heap every two weeks lets air in and keeps it from smelling. Meat, cheese and cooked food do not belong "
        "in it, because they attract rats. In summer the compost is finished after about four months; in a cold "
        "climate it may take a year. Finished compost is dark, crumbly and smells of forest soil. Spread it in "
        "spring, three centimetres thick.",
        [
            ("How often should a compost heap be turned?", "every two weeks"),
            ("Why does meat not belong in compost?", "because they attract rats"),
            ("How thick should finished compost be spread?", "three centimetres"),
        ],
    ),
    (
        "Battery Safety of the Halden Drone",
        "product",
        "The Halden H4 drone flies for 27 minutes on one battery. Charge the battery only with the supplied "
        "charger and on a surface that cannot burn; a full charge takes 80 minutes. For storage longer than ten "
        "days, leave it half charged. Do not fly when the air is colder than minus 5 degrees, because the voltage "
        "may drop without warning. A swollen battery must not be used again: put it in a metal box with sand and "
        "take it to a recycling point. The drone returns by itself when less than 15 percent of charge is left. "
        "The warranty covers the battery for 18 months.",
        [
            ("How long does the Halden H4 fly on one battery?", "27 minutes"),
            ("How long does a full charge take?", "80 minutes"),
            ("For how long does the warranty cover the battery?", "18 months"),
            ("When does the drone return by itself?", "when less than 15 percent of charge is left"),
        ],
    ),
    (
        "The Skarne Lighthouse",
        "history",
        "The Skarne lighthouse stands on a rock two miles off the coast of Velland. It was built between 1861 and "
        "1866 by the engineer Marta Olsund, after the steamer Corvane had sunk there with its load of copper. The "
        "tower is 41 metres high and made of red granite. Its lamp first burned whale oil and was changed to "
        "electricity in 1923. The last keeper, Joren Falk, left in 1987, when the light became automatic. The "
        "light can be seen for 19 nautical miles. Since 2004 the keeper's house has been a weather station run by "
        "the University of Hesk.",
        [
            ("Which engineer built the Skarne lighthouse?", "Marta Olsund"),
            ("How high is the tower of the Skarne lighthouse?", "41 metres"),
            ("Who was the last keeper of the Skarne lighthouse?", "Joren Falk"),
            ("Which steamer had sunk at the Skarne rock?", "Corvane"),
        ],
    ),
]


def example_documents() -> list[dict[str, Any]]:
    """The documents as records: id, title, content, source, metadata."""
    return [
        {
            "id": f"example_{number:03d}",
            "title": title,
            "content": content,
            "source": SOURCE,
            "metadata": {"topic": topic},
        }
        for number, (title, topic, content, _) in enumerate(_EXAMPLES, start=1)
    ]


def example_questions() -> list[dict[str, Any]]:
    """The questions as records: id, question, answers, supporting_ids."""
    return [
        {
            "id": f"example_{number:03d}_q{place}",
            "question": question,
            "answers": [answer],
            "supporting_ids": [f"example_{number:03d}"],
        }
        for number, (_, _, _, questions) in enumerate(_EXAMPLES, start=1)
        for place, (question, answer) in enumerate(questions, start=1)
    ]
