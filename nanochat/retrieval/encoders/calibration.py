"""A few texts of many kinds, from which 8-bit scales are taken: the scales depend on the model, not on a corpus."""

from collections.abc import Iterator

import numpy as np

from nanochat.retrieval.encoders.sentence_folder import SentenceFolder
from nanochat.retrieval.encoders.tokens import Tokens

TEXTS = (
    "what is the capital of france",
    "How long does standard shipping take, and what does it cost to return an item?",
    "side effects of ibuprofen in older adults",
    "who wrote the novel that the film was based on",
    "Can I cancel my subscription before the trial ends?",
    "error: connection refused on port 5432",
    "Which of the two rivers is longer, the Danube or the Rhine?",
    "why did the boy hide the golden key under the stone",
    "0-dimensional biomaterials show inductive properties.",
    "Returns are accepted within 30 days of delivery. The item must be unused and in its original box. Refunds reach "
    "the card that paid within five to seven working days after the parcel has been checked in the warehouse.",
    "The mitochondrion is an organelle found in the cells of most eukaryotes. It uses aerobic respiration to generate "
    "adenosine triphosphate (ATP), which is used throughout the cell as a source of chemical energy. Mutations of its "
    "own small genome are inherited from the mother and cause a range of disorders of muscle and nerve.",
    "BACKGROUND: Randomised trials disagree on whether early treatment lowers mortality. METHODS: We enrolled 1,248 "
    "patients in 32 hospitals between 2009 and 2014; 612 received the drug within 6 h. RESULTS: At 28 days, 14.2% and "
    "17.9% had died (hazard ratio 0.78, 95% CI 0.61-0.99, p = 0.04). CONCLUSIONS: Early treatment was safe, and the "
    "benefit was largest in patients over 65 years with raised C-reactive protein.",
    "Once upon a time there lived a miller who was so poor that he had nothing left but his mill and a large apple "
    "tree behind it. One day, when he had gone into the forest to fetch wood, an old man stepped up to him and said: "
    "why do you trouble yourself with cutting wood? I will make you rich, if you promise me what is behind your mill.",
    "The city was founded in 1248 by merchants from the coast. It grew rich from salt, cloth and amber, was burnt down "
    "twice, and lost its walls in 1807. Today it has 214,000 inhabitants, a university, an opera house, and a harbour "
    "that handles more timber than any other on the inland sea.",
    "def read_lines(path, limit=None):\n    with open(path, encoding='utf-8') as file:\n        for number, line in "
    "enumerate(file):\n            if limit is not None and number >= limit:\n                return\n            "
    "yield line.rstrip('\\n')",
    "SELECT customer.name, COUNT(*) AS orders FROM customer JOIN orders ON orders.customer_id = customer.id WHERE "
    "orders.placed_at >= '2024-01-01' GROUP BY customer.name HAVING COUNT(*) > 3 ORDER BY orders DESC LIMIT 20;",
    "| region | 2022 | 2023 | change |\n|---|---|---|---|\n| North | 1,204 | 1,390 | +15.4% |\n| South | 987 | 912 | "
    "-7.6% |\n| East | 2,310 | 2,355 | +1.9% |",
    "## Installation\n\n1. Install Python 3.11 or newer.\n2. Run `pip install package`.\n3. Set the variable "
    "`HOME_DIR` and start the server with `serve --port 8000`.\n\n> Note: the first start takes a minute.",
    "The parties agree that any dispute arising out of or in connection with this agreement, including any question "
    "regarding its existence, validity or termination, shall be referred to and finally resolved by arbitration. The "
    "seat of arbitration shall be the place of the registered office of the seller.",
    "Scott Derrickson (born July 16, 1966) is an American director, screenwriter and producer. He lives in the west of "
    "the country and is best known for horror films and for one film about a surgeon who turns to magic.",
    "Der Zug nach Hamburg fährt um 9:42 Uhr von Gleis 7 ab. Reservierungen sind bis zu einer Stunde vorher möglich.",
    "El gobierno anunció el martes nuevas medidas para reducir el consumo de agua en las ciudades del sur del país.",
    "La bibliothèque est ouverte du mardi au samedi, de dix heures à dix-huit heures; l'entrée est libre.",
    "Вода кипит при ста градусах, если давление равно одной атмосфере.",
    "水在一个大气压下于一百摄氏度沸腾。", "この製品の保証期間は購入日から二年間です。",
    "a", "yes", "42", "Mr. O'Neill paid $3.50 (approx. 3,20 EUR) at 7:30 p.m.!?",
    "e = mc^2; x_i >= 0 for all i in {1, ..., n}",
    "https://example.org/a/b?c=d&e=f#g user@example.org +49 30 1234567 v1.2.3-rc4",
    "AAAAAAAAAAAAAAAA ######## ........ %%%%%%%% 1010101010101010 ~~~~ <<>> {} [] () /* */",
    "LIMITED OFFER!!! BUY NOW AND SAVE 50% ON ALL ITEMS!!! FREE SHIPPING ON ORDERS OVER 40 DOLLARS!!!",
    "Photosynthesis in green plants takes place in chloroplasts. Light is absorbed by chlorophyll; water is split; "
    "oxygen is set free; carbon dioxide is fixed in the Calvin cycle and becomes sugar, starch and cellulose.",
    "A triangle has sides of 3, 4 and 5 centimetres. What is its area? The sides satisfy 3^2 + 4^2 = 5^2, so the angle "
    "between the shorter ones is a right angle, and the area is 3 * 4 / 2 = 6 square centimetres.",
)


def calibration_inputs(sentence: SentenceFolder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids, mask) of each text alone, and of all of them in one row as long as the model takes."""
    tokens = Tokens(sentence)
    for ids in tokens.encode([*TEXTS, " ".join(TEXTS), " ".join(reversed(TEXTS))]):
        if ids:
            yield np.array([ids], np.int64), np.ones((1, len(ids)), np.int64)
