"""Wordings for products, policies and works, in the form that tasks/world_templates.py explains."""

from tasks.world_templates import Wording

PRODUCTS: dict[str, Wording] = {
    "product.maker": ("organisation", (
        "{S} is made by {V}.", "The maker of {o} is {V}.",
        "{V} makes {o} in small numbers.", "A new batch of {o} leaves the halls of {V}.",
        "{S} is a product of {V}.", "{V} manufactures {o}.",
    ), (
        "Who makes {N}?", "Which organisation makes {N}?",
        "Name the maker of {N}.", "By which organisation is {N} made?",
        "Who manufactures {N}?", "Tell me which organisation produces {N}.",
    )),
    "product.designer": ("person", (
        "{S} was designed by {V}.", "The designer of {o} is {V}.",
        "{V} drew the first plans for {o}.", "{P} design is the work of {V}.",
        "{V} came up with the idea for {o}.", "The inventor behind {o} is {V}.",
    ), (
        "Who designed {N}?", "Who is the designer of {N}?",
        "Name the designer of {N}.", "Which person drew the plans for {N}?",
        "Who came up with the idea for {N}?", "Tell me who invented {N}.",
    )),
    "product.price": ("price", (
        "{S} costs {V}.", "The price of {o} is {V}.",
        "Shops sell {o} for {V}.", "Most buyers pay {V} for {o}.",
        "{S} is offered at {V}.", "One has to spend {V} to own {o}.",
    ), (
        "How much does {N} cost?", "What is the price of {N}?",
        "Give the price of {N}.", "For how much do shops sell {N}?",
        "How much does one have to spend on {N}?", "State the cost of {N}.",
    )),
    "product.launched": ("year", (
        "{S} went on sale in {V}.", "The first model of {o} appeared in {V}.",
        "{P} launch took place in {V}.", "Shops have carried {o} since {V}.",
        "{S} reached the market in {V}.", "{V} was the year when {o} came out.",
    ), (
        "When did {N} go on sale?", "In which year was {N} launched?",
        "What is the launch year of {N}?", "Give the year in which {N} went on sale.",
        "In what year did {N} come out?", "State when {N} reached the market.",
    )),
    "product.material": ("material", (
        "{S} is made of {V}.", "{P} body consists of {V}.",
        "The main material of {o} is {V}.", "Skilled workers build {o} from {V}.",
        "Polished {V} gives {o} its look.", "{S} has a casing of {V}.",
    ), (
        "What is {N} made of?", "Which material is {N} made of?",
        "Name the main material of {N}.", "From what material is {N} built?",
        "What does the casing of {N} consist of?", "Tell me the material used for {N}.",
    )),
}

POLICIES: dict[str, Wording] = {
    "policy.notice": ("days", (
        "{S} requires notice of {V}.", "Under {o} the notice period is {V}.",
        "{P} notice period is {V}.", "Requests under {o} must arrive {V} in advance.",
        "{S} asks for a warning of {V}.", "Anyone using {o} has to write {V} ahead.",
    ), (
        "What is the notice period of {N}?", "How much notice does {N} require?",
        "Give the notice period under {N}.", "How long is the notice period in {N}?",
        "How far ahead must one write under {N}?", "State how long a warning {N} asks for.",
    )),
    "policy.limit": ("price", (
        "{S} sets a limit of {V}.", "The spending limit in {o} is {V}.",
        "{P} upper limit is {V}.", "No claim under {o} may exceed {V}.",
        "Payments under {o} stop at {V}.", "{S} covers at most {V}.",
    ), (
        "What is the limit set by {N}?", "What is the spending limit in {N}?",
        "How high is the limit of {N}?", "Give the upper limit of {N}.",
        "How much does {N} cover at most?", "State the largest claim allowed under {N}.",
    )),
    "policy.effective": ("year", (
        "{S} took effect in {V}.", "{S} has been in force since {V}.",
        "The first version of {o} dates from {V}.", "{P} rules have applied since {V}.",
        "{S} became binding in {V}.", "Staff have followed {o} since {V}.",
    ), (
        "When did {N} take effect?", "Since which year has {N} been in force?",
        "In which year did {N} take effect?", "Give the year in which {N} came into force.",
        "In what year did {N} become binding?", "State since when staff have followed {N}.",
    )),
    "policy.approver": ("person", (
        "{S} was approved by {V}.", "{V} approved {o} after a long debate.",
        "The person who approved {o} is {V}.", "{P} final text was signed by {V}.",
        "{V} gave consent to {o}.", "{S} bears the signature of {V}.",
    ), (
        "Who approved {N}?", "By whom was {N} approved?",
        "Name the person who approved {N}.", "Who signed {N}?",
        "Whose signature does {N} bear?", "Tell me who gave consent to {N}.",
    )),
}

WORKS: dict[str, Wording] = {
    "work.author": ("person", (
        "{S} was written by {V}.", "The author of {o} is {V}.",
        "{V} wrote {o} in one long winter.", "{P} author, {V}, worked on the text for years.",
        "{S} came from the pen of {V}.", "{V} is the writer behind {o}.",
    ), (
        "Who wrote {N}?", "Who is the author of {N}?",
        "Name the author of {N}.", "By whom was {N} written?",
        "From whose pen did {N} come?", "Tell me which person is the writer of {N}.",
    )),
    "work.published": ("year", (
        "{S} was published in {V}.", "The first edition of {o} appeared in {V}.",
        "{P} publication year is {V}.", "Readers first saw {o} in {V}.",
        "{S} came out in {V}.", "{V} was the year when {o} reached the shops.",
    ), (
        "When was {N} published?", "In which year was {N} published?",
        "What is the publication year of {N}?", "Give the year in which {N} first appeared.",
        "In what year did {N} come out?", "State when {N} reached the shops.",
    )),
    "work.publisher": ("organisation", (
        "{S} was published by {V}.", "The publisher of {o} is {V}.",
        "{V} printed and sold {o}.", "{P} rights belong to the publisher, {V}.",
        "{V} brought {o} to the public.", "{S} appeared with {V}.",
    ), (
        "Who published {N}?", "Who is the publisher of {N}?",
        "Name the publisher of {N}.", "Which organisation printed and sold {N}?",
        "Who brought {N} to the public?", "Tell me with which organisation {N} appeared.",
    )),
    "work.setting": ("place", (
        "{S} is set in {V}.", "The story of {o} takes place in {V}.",
        "{P} plot unfolds in {V}.", "Every chapter of {o} plays in {V}.",
        "{V} is the scene of {o}.", "The events of {o} happen in {V}.",
    ), (
        "Where is {N} set?", "In which town is {N} set?",
        "Name the town in which {N} is set.", "Where does the story of {N} take place?",
        "Which town is the scene of {N}?", "Tell me where the events of {N} happen.",
    )),
    "work.pages": ("pages", (
        "{S} has {V} pages.", "The first edition of {o} runs to {V} pages.",
        "{P} length is {V} pages.", "A full copy of {o} fills {V} pages.",
        "{V} pages make up {o}.", "{S} is {V} pages long.",
    ), (
        "How many pages does {N} have?", "How many pages long is {N}?",
        "What is the number of pages of {N}?", "Give the length of {N} in pages.",
        "How many pages make up {N}?", "State how many pages {N} runs to.",
    )),
}
