"""Pseudo-queries, negatives, maps for query vectors, fine-tuning, and the version of the knowledge base they become."""

import json
import random

import numpy as np
import pytest
from encoder_stubs import ODD, TEXTS

from nanochat.errors import ConfigError, KnowledgeBaseError
from nanochat.retrieval import Document, KnowledgeBase
from nanochat.retrieval.base import Hit
from nanochat.retrieval.encoders import EncoderError, load_encoder
from nanochat.retrieval.encoders.lsa import LsaEncoder
from nanochat.retrieval.encoders.tuned import TunedEncoder, mapped
from nanochat.retrieval.tuning.negatives import groups_of, hard_negatives, near_duplicate
from nanochat.retrieval.tuning.pseudo_queries import KINDS, SPLITS, PseudoQuery, make_queries, name_of, split_of
from nanochat.retrieval.tuning.ranks import ndcg, ranks

torch = pytest.importorskip("torch")


def some_documents(count=200, seed=0):
    """Every document has words of its own, and words of a topic that others share."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefghijklmnoprstuvw", k=6)) for _ in range(400)]
    made = []
    for number in range(count):
        own, topic = generator.sample(words, 12), words[number % 20 * 5 : number % 20 * 5 + 5]
        sentences = [" ".join(generator.choices(own, k=5) + generator.choices(topic, k=3)) for _ in range(4)]
        content = " ".join(f"The {sentence}." for sentence in sentences)
        made.append(Document(id=f"d{number}", title=" ".join(own[:3]), content=content))
    return made


DOCUMENTS = some_documents()


def tuned(seed=0):
    base = LsaEncoder()
    turn = np.eye(base.dimension) + 0.02 * np.random.default_rng(seed).standard_normal((base.dimension,) * 2)
    return TunedEncoder(base, turn.astype(np.float32), {"form": "full"})


@pytest.fixture
def place(tmp_path):
    KnowledgeBase.build(DOCUMENTS, tmp_path / "kb", "hybrid", settings={"model": "lsa"})
    return tmp_path / "kb"


def test_a_tuned_encoder_maps_queries_only_and_survives_saving(tmp_path):
    encoder = tuned()
    texts = TEXTS + ODD
    assert np.array_equal(encoder.encode_documents(texts), encoder.base.encode_documents(texts))
    queries = encoder.encode_queries(texts)
    lengths = np.linalg.norm(queries, axis=1)
    assert np.isfinite(queries).all() and np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))
    assert not np.allclose(queries, encoder.base.encode_queries(texts))
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.describe() == encoder.describe() == json.loads((tmp_path / "encoder.json").read_text())
    assert np.array_equal(loaded.encode_queries(texts), queries)


def test_maps_change_the_fingerprint_and_damage_is_found(tmp_path):
    assert tuned(0).describe()["fingerprint"] != tuned(1).describe()["fingerprint"]
    tuned().save(tmp_path)
    np.save(tmp_path / "query-map.npy", tuned(1).query_map)
    with pytest.raises(EncoderError, match="damaged"):
        load_encoder(tmp_path)
    np.save(tmp_path / "query-map.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(EncoderError, match="cannot be read"):
        load_encoder(tmp_path)


def test_the_identity_changes_no_vector():
    vectors = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[2] = 0
    assert np.allclose(mapped(vectors, np.eye(8, dtype=np.float32)), vectors, atol=1e-6)


def test_pseudo_queries_are_the_same_each_time_and_of_every_kind():
    made = make_queries(DOCUMENTS, 300)
    assert made == make_queries(DOCUMENTS, 300) and len(made) == 300
    assert {query.kind for query in made} == set(KINDS)
    assert len({query.place for query in made}) == len(DOCUMENTS), "every passage is asked for before any is again"
    assert made != make_queries(DOCUMENTS, 300, seed=1)
    for query in made:
        assert query.split == split_of(DOCUMENTS[query.place].id)
        words = set(query.text.lower().replace(".", "").split())
        assert words <= set(DOCUMENTS[query.place].text.lower().replace(".", "").split())


def test_passages_of_one_document_share_a_split():
    documents = [Document(id=f"a#{number}", title="t", content="One. Two.", metadata={"parent": "a"})
                 for number in range(1, 9)]
    assert {split_of(name_of(document)) for document in documents} == {split_of("a")}
    counts = [split_of(str(number)) for number in range(4000)]
    for split, share in SPLITS.items():
        assert abs(counts.count(split) / 4000 - share) < 0.03


@pytest.mark.parametrize("content", ["a", "?!", "水" * 500, "x " * 5000, "One two.\n\n\nThree.", "\x00\x01"])
def test_odd_passages_give_few_queries_and_no_error(content):
    documents = [Document(id=title, title=title, content=content) for title in ("t", "T t", "The long title")]
    assert len(make_queries(documents, 50)) <= 12


def test_negatives_are_neither_of_the_same_document_nor_near_duplicates():
    class Words:
        def search(self, queries, top_k):
            return [[Hit(place, 1.0) for place in range(5)] for _ in queries]

    vectors = np.eye(5, dtype=np.float32)
    vectors[3] = vectors[0]
    groups = groups_of(["a", "a", "b", "c", "d"])
    found = hard_negatives([PseudoQuery("q", "title", 0, "train")], Words(), vectors, groups, 4)
    assert found.tolist() == [[2, 4, -1, -1]]


def test_ranks_equal_a_plain_count():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((300, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, places, groups = vectors[:200][::-1].copy(), np.arange(200), np.arange(300) // 3
    plain, near = [], near_duplicate(vectors)
    assert 0.89 < near < 0.92
    for query, place in zip(queries, places):
        others = [row for row in range(300) if groups[row] != groups[place] and vectors[row] @ vectors[place] < near]
        plain.append(1 + sum(float(vectors[row] @ query) > float(vectors[place] @ query) for row in others))
    assert ranks(queries, places, vectors, groups).tolist() == plain
    assert ndcg(np.array([1, 3, 10, 11])).tolist() == [1.0, 0.5, pytest.approx(0.2891, abs=1e-4), 0.0]


def test_a_map_is_learned_where_there_is_one_to_learn():
    from nanochat.retrieval.tuning.adapter import learn_map, quality
    from nanochat.retrieval.tuning.arena import Arena, Examples

    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((400, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # queries see noise in half of the directions, which a map can leave out
    queries = vectors + np.where(np.arange(16) < 8, 0.1, 0.8) * generator.standard_normal((400, 16))
    documents = [Document(id=str(number), content="x") for number in range(400)]
    arena = Arena.of(documents, vectors)
    queries = queries.astype(np.float32)
    examples = Examples(queries, np.arange(400), np.full((400, 2), -1))
    train, dev, rest = (examples.take(np.arange(first, 400, 3)) for first in range(3))
    learned = learn_map(train, dev, arena, epochs=15, forms=["full"], seed=1)
    assert learned.dev_after > learned.dev_before and learned.form == "full"
    assert quality(rest, learned.query_map, arena) > quality(rest, np.eye(16, dtype=np.float32), arena)
    again = learn_map(train, dev, arena, epochs=15, forms=["full"], seed=1)
    assert np.array_equal(again.query_map, learned.query_map)
    # nothing to learn: the identity stays
    exact = Examples(vectors, np.arange(400), np.full((400, 2), -1))
    assert learn_map(exact, exact, arena, epochs=2).form == "identity"


def files_in(folder):
    return {file.name: file.stat().st_ino for file in folder.iterdir()}


def test_installing_links_the_vectors_and_later_writes_keep_the_encoder(place, tmp_path):
    from nanochat.retrieval.retrievers.dense import write_with_encoder
    from nanochat.retrieval.tuning.installing import install_index

    knowledge_base = KnowledgeBase.open(place)
    before = knowledge_base.retriever("dense").query_vectors(["red kite"])
    record = knowledge_base.manifest["indexes"]["dense"]
    (tmp_path / "made").mkdir()
    write_with_encoder(tmp_path / "made", place / "indexes" / record["folder"], tuned())
    install_index(place, tmp_path / "made", knowledge_base.manifest)
    with pytest.raises(KnowledgeBaseError, match="was changed while"):
        install_index(place, tmp_path / "made", knowledge_base.manifest)
    new = KnowledgeBase.open(place)
    new.verify()
    folder = place / "indexes" / new.manifest["indexes"]["dense"]["folder"]
    vectors = {name: inode for name, inode in files_in(folder).items() if name.startswith("v-")}
    assert vectors and vectors.items() <= files_in(place / "indexes" / record["folder"]).items()
    assert new.fingerprint == knowledge_base.fingerprint and new.version == knowledge_base.version + 1
    assert not np.allclose(new.retriever("dense").query_vectors(["red kite"]), before)
    assert new.retriever("hybrid").alpha == knowledge_base.retriever("hybrid").alpha

    wanted = tuned().describe()["fingerprint"]
    for change in (lambda: new.add(some_documents(3, seed=9)[:0] + [Document(id="n", content="a new kite flies")]),
                   lambda: new.delete(["d1"]), lambda: new.compact()):
        change()
        assert new.manifest["indexes"]["dense"]["made_by"]["encoder"]["fingerprint"] == wanted
    assert new.search(["a new kite flies"], 1)[0][0].id == "n"
    new.rollback(knowledge_base.version)
    assert np.array_equal(new.retriever("dense").query_vectors(["red kite"]), before)


def test_the_script_installs_only_what_wins(place, tmp_path, capsys):
    from scripts.kb_tune_encoder import main

    report = tmp_path / "report.json"
    flags = ["--knowledge_base", str(place), "--num_queries", "400", "--epochs", "3", "--report", str(report)]
    assert main(flags) == 0
    found = json.loads(report.read_text())
    version = KnowledgeBase.open(place).version
    assert (found["version"] == version and found["wins"]) or (found["version"] is None and version == 1)
    if found["results"]:
        assert found["wins"] == (found["results"][0]["difference"]["low"] > 0)
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"id": f"q{number}", "text": document.title,
                                             "supporting_ids": [document.id]}) + "\n"
                                 for number, document in enumerate(DOCUMENTS[:30])))
    assert main([*flags, "--queries", str(questions), "--install", "false"]) == 0
    assert KnowledgeBase.open(place).version == version
    assert "not installed" in capsys.readouterr().out


def test_the_script_refuses_what_cannot_work(place, tmp_path):
    from scripts.kb_tune_encoder import main

    KnowledgeBase.build(DOCUMENTS, tmp_path / "words", "simple")
    with pytest.raises(KnowledgeBaseError, match="no dense index"):
        main(["--knowledge_base", str(tmp_path / "words")])
    KnowledgeBase.build(DOCUMENTS[:5], tmp_path / "small", "dense", settings={"model": "lsa"})
    with pytest.raises(KnowledgeBaseError, match="Too few passages"):
        main(["--knowledge_base", str(tmp_path / "small")])
    for flags in (["--method", "full"], ["--epochs", "0"], ["--qrels", "x.tsv"],
                  ["--method", "full", "--output", str(tmp_path)],
                  ["--method", "full", "--output", str(tmp_path / "new")]):
        with pytest.raises(ConfigError):
            main(["--knowledge_base", str(place), "--num_queries", "400", *flags])


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A small random BERT that knows the words of the documents."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    words = sorted({word for document in DOCUMENTS for word in document.text.replace(".", "").split()})
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    folder = tmp_path / "model"
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]").save_pretrained(folder)
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64)).eval().save_pretrained(folder)
    return folder


def test_fine_tuning_writes_a_model_that_finds_more_and_the_knowledge_base_takes_it(model, tmp_path):
    from scripts.kb_tune_encoder import main

    place, output = tmp_path / "kb", tmp_path / "tuned"
    knowledge_base = KnowledgeBase.build(DOCUMENTS, place, "dense", settings={"model": str(model), "path": "torch"})
    weights = (model / "model.safetensors").read_bytes()
    report = tmp_path / "report.json"
    assert main(["--knowledge_base", str(place), "--method", "full", "--output", str(output), "--steps", "30",
                 "--learning_rate", "3e-3", "--batch", "16", "--num_queries", "400", "--report", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["wins"] and found["learned"]["last_loss"] < found["learned"]["first_loss"]
    assert (model / "model.safetensors").read_bytes() == weights, "the old model is left alone"
    new = KnowledgeBase.open(place)
    new.verify()
    assert new.version == knowledge_base.version + 1 and new.manifest["settings"]["model"] == str(output)
    # what was installed is what was measured, and additions use it
    encoder = load_encoder(place / "indexes" / new.manifest["indexes"]["dense"]["folder"])
    texts = [document.text for document in new.documents[:5]]
    stored = new.retriever("dense").vectors.store.gather(np.arange(5))
    assert np.allclose(encoder.encode_documents(texts), stored, atol=2e-3)
    new.add([Document(id="n", title="", content=DOCUMENTS[0].content)])
    assert len(new.search([DOCUMENTS[0].title], 3)[0]) == 3
