"""Reranking with a cross-encoder: tiny random BERT models, built here."""

import json

import pytest

from nanochat.errors import KnowledgeBaseError
from nanochat.retrieval.document import Document, ScoredDocument
from nanochat.retrieval.retrievers.rerank import Reranker

transformers = pytest.importorskip("transformers")
WORDS = "the red blue kite heron flies sinks over under sea what does [PAD] [UNK] [CLS] [SEP] [MASK]".split()
DOCUMENTS = [
    Document(id=str(number), title=title, content=content)
    for number, (title, content) in enumerate([
        ("kite", "the red kite flies over the sea"), ("heron", "the blue heron sinks"), ("", "sea " * 300),
        ("kite", "the red kite flies over the sea"), ("", "over under " * 9),
    ])
]


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", numbers["[SEP]"]), ("[CLS]", numbers["[CLS]"]))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]",
    )


def saved(folder, num_labels=1, *, kind="BertForSequenceClassification"):
    import torch

    torch.manual_seed(0)
    folder.mkdir()
    _tokenizer().save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=num_labels, initializer_range=0.5,
    )
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return Reranker(saved(tmp_path_factory.mktemp("models") / "one"), top_n=3, device="cpu")


def test_scores_are_those_of_the_pairs_one_by_one(reranker):
    together = reranker.rerank("what does the kite", DOCUMENTS)
    alone = [reranker.rerank("what does the kite", [document])[0] for document in DOCUMENTS]
    assert together == pytest.approx(alone, abs=1e-5) and len({round(score, 4) for score in together}) == 4
    assert reranker.rerank("kite", []) == []


def test_scores_depend_on_the_query(reranker):
    one, other = reranker.rerank("the kite", DOCUMENTS), reranker.rerank("blue sea", DOCUMENTS)
    assert max(abs(a - b) for a, b in zip(one, other)) > 1e-3, (one, other)


def test_the_best_come_first_with_their_new_scores(reranker):
    found = [ScoredDocument.of(document, 9.0 - number) for number, document in enumerate(DOCUMENTS)]
    scores = dict(zip("01234", reranker.rerank("heron", DOCUMENTS)))
    best = reranker.best("heron", found, top_k=2)
    # top_n is 3: the last two are not looked at
    assert [document.id for document in best] == sorted("012", key=lambda name: -scores[name])[:2]
    assert [document.score for document in best] == pytest.approx([scores[document.id] for document in best], abs=1e-5)
    everything = reranker.best("heron", found, top_k=9)
    assert len(everything) == 5
    ids = [document.id for document in everything]
    assert ids.index("0") + 1 == ids.index("3"), f"equal documents keep their order: {ids}"


def test_long_queries_and_odd_texts_work(reranker):
    odd = [Document(id="a", content="\x00 \U0001f600"), Document(id="b", content="sea")]
    assert len(reranker.rerank("heron " * 500, odd)) == len(reranker.rerank("", odd)) == 2


def test_two_classes_are_the_difference_of_their_logits(tmp_path):
    two = Reranker(saved(tmp_path / "two", 2), device="cpu")
    scores = two.rerank("kite", DOCUMENTS)
    assert len(scores) == 5 and scores[0] == pytest.approx(scores[3], abs=1e-6)


def test_folders_without_a_cross_encoder_are_refused(tmp_path):
    with pytest.raises(KnowledgeBaseError, match="No reranker in .*config.json is missing"):
        Reranker(tmp_path)
    with pytest.raises(KnowledgeBaseError, match="3 classes"):
        Reranker(saved(tmp_path / "three", 3))
    with pytest.raises(KnowledgeBaseError, match="is no cross-encoder: it lacks the weights classifier"):
        Reranker(saved(tmp_path / "plain", kind="BertModel"))
    broken = saved(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(KnowledgeBaseError, match="cannot be loaded"):
        Reranker(broken)
    (broken / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(KnowledgeBaseError, match="cannot be loaded"):
        Reranker(broken)


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    import torch

    reranker = Reranker(saved(tmp_path / "nan"), device="cpu")
    with torch.no_grad():
        reranker._model.classifier.bias.fill_(float("nan"))
    with pytest.raises(KnowledgeBaseError, match="gives the score nan to document '1'"):
        reranker.rerank("kite", DOCUMENTS)
