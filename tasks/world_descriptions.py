"""Wordings for an entity that is not named but described by another one: "the mayor of Torvik", link by link.

Only relations whose value is an entity with a document of its own are here. {N} is what the description hangs on: a
full name, or another description. The last HELD_OUT of each tuple are kept for evaluation.
"""

DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "person.birthplace": (
        "the town where {N} was born", "the birthplace of {N}",
        "the town in which {N} was born", "the town of birth of {N}",
        "the town that {N} is a native of", "the town where {N} came into the world",
    ),
    "person.employer": (
        "the employer of {N}", "the organisation that employs {N}",
        "the organisation that {N} works for", "the organisation where {N} works",
        "the organisation where {N} holds a post", "the organisation that has {N} on its staff",
    ),
    "person.teacher": (
        "the teacher of {N}", "the person who taught {N}",
        "the one who taught {N}", "the person who was the teacher of {N}",
        "the person under whom {N} studied", "the person who trained {N}",
    ),
    "person.possession": (
        "the product that {N} owns", "the product owned by {N}",
        "the most treasured possession of {N}", "the product that {N} keeps at home",
        "the product that belongs to {N}", "the product that {N} never travels without",
    ),
    "place.mayor": (
        "the mayor of {N}", "the person who is mayor of {N}",
        "the one who serves as mayor of {N}", "the person elected mayor of {N}",
        "the person who leads the council of {N}", "the head of the town hall of {N}",
    ),
    "organisation.founder": (
        "the founder of {N}", "the person who founded {N}",
        "the one who founded {N}", "the person by whom {N} was founded",
        "the person who set up {N}", "the person who started {N}",
    ),
    "organisation.headquarters": (
        "the town where {N} has its headquarters", "the town where {N} is based",
        "the town with the headquarters of {N}", "the town with the main office of {N}",
        "the town from which {N} is run", "the town with the head office of {N}",
    ),
    "product.maker": (
        "the maker of {N}", "the organisation that makes {N}",
        "the organisation behind {N}", "the organisation by which {N} is made",
        "the organisation that manufactures {N}", "the producer of {N}",
    ),
    "product.designer": (
        "the designer of {N}", "the person who designed {N}",
        "the one who designed {N}", "the person who drew the plans for {N}",
        "the inventor of {N}", "the person who came up with the idea for {N}",
    ),
    "policy.approver": (
        "the person who approved {N}", "the one who approved {N}",
        "the person by whom {N} was approved", "the approver of {N}",
        "the person who signed {N}", "the person who gave consent to {N}",
    ),
    "work.author": (
        "the author of {N}", "the person who wrote {N}",
        "the one who wrote {N}", "the person by whom {N} was written",
        "the writer behind {N}", "the person from whose pen {N} came",
    ),
    "work.publisher": (
        "the publisher of {N}", "the organisation that published {N}",
        "the organisation that printed and sold {N}", "the organisation by which {N} was published",
        "the organisation that brought {N} to the public", "the organisation with which {N} appeared",
    ),
    "work.setting": (
        "the town where {N} is set", "the setting of {N}",
        "the town where {N} takes place", "the town in which the story of {N} takes place",
        "the town that is the scene of {N}", "the town where the events of {N} happen",
    ),
}
