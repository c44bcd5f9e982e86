"""The README.md of an export: what the model is, how to run and serve it elsewhere, and what is lost there."""

from collections.abc import Sequence

from nanochat.model.config import ModelConfig
from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer
from nanochat.tokenizer.imported import ImportedTokenizer

_TEXT = """\
# {name}

{shape}

Its format: documents and a question in, an answer out that names the document it rests on, or a mark that says that the
documents do not hold it. How well it does so depends on what it was trained on.{source}

## With transformers

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
documents = [
    {{"title": "Torvik Bridge", "content": "The Torvik Bridge in Vessary opened in 1987."}},
    {{"title": "Ilse Marrow", "content": "Ilse Marrow built three bridges."}},
]
messages = [{{"role": "user", "content": "When did the Torvik Bridge open?"}}]
prompt = tokenizer.apply_chat_template(
    messages, documents=documents, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**prompt, max_new_tokens=64)
answer = output[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(answer))                            # with marks: what is cited
print(tokenizer.decode(answer, skip_special_tokens=True))  # the text alone
```

`documents` belong to the last question. Documents of earlier turns stand in messages of their own, before or behind
their question: `{{"role": "retrieval", "documents": [...]}}`. An empty list says that a search found nothing; no list
says that nobody searched. The text of a document is called `content` or `text`, `title` may be missing. A conversation
has at most {num_slots} documents: the template refuses more.

## Marks

| text | meaning |
|---|---|
| `{assistant_start}` | the answer begins; written by `add_generation_prompt=True` |
| `{cite}{doc_0}` | the answer rests on the first document of the conversation; `{doc_1}` is the second |
| `{abstain}` | the documents do not hold the answer; a document cited before it comes closest |
| `{assistant_end}` | the answer ends; it is `eos_token` |

The marks are read from the decoded text, with `skip_special_tokens=False`:

```python
import re

text = tokenizer.decode(answer)
cited = [int(slot) for slot in re.findall(r"{cite_pattern}", text)]
abstained = "{abstain}" in text
```

Texts may spell marks: in the chat template they stay text, because it breaks them up with a character that the
tokenizer drops again. `tokenizer(text)` alone takes them for marks, as transformers does for all models;
`tokenizer(text, split_special_tokens=True)` does not.{pieces} Do not set `split_special_tokens` in
`tokenizer_config.json`: the marks of the chat template would become text as well.

## With vLLM

vLLM has a class for `{architecture}`. It was not run on this folder.

```bash
vllm serve . --served-model-name {slug}
curl http://localhost:8000/v1/chat/completions -H "Content-Type: application/json" -d '{{
  "model": "{slug}", "temperature": 0, "max_tokens": 64, "skip_special_tokens": false,
  "messages": [{{"role": "user", "content": "When did the Torvik Bridge open?"}}],
  "documents": [{{"title": "Torvik Bridge", "text": "The Torvik Bridge in Vessary opened in 1987."}}]
}}'
```

- `documents` is a field of the request; every value in it must be text. Without `"skip_special_tokens": false` the
  citations are missing from the answer.
- Its prefix cache works in blocks, and those of a hybrid can be several hundred tokens long: shorter prompts are then
  read anew every time (vllm-project/vllm#40696).

## With llama.cpp

llama.cpp has the Granite 4 hybrids, Bamba and Mamba-2 (ggml-org/llama.cpp#13550, #9126). It was not run on this folder.

```bash
python convert_hf_to_gguf.py . --outfile {slug}-f16.gguf --outtype f16
llama-server -m {slug}-f16.gguf --jinja --special
curl http://localhost:8080/v1/chat/completions -H "Content-Type: application/json" -d '{{
  "temperature": 0, "max_tokens": 64,
  "messages": [{{"role": "user", "content": "When did the Torvik Bridge open?"}}],
  "chat_template_kwargs": {{"documents": [{{"title": "Torvik Bridge", "text": "It opened in 1987."}}]}}
}}'
```

- `--jinja` runs `chat_template.jinja`, `--special` shows the marks, citations among them.
{vocabulary}
- Where a text spells a mark, llama.cpp keeps the character that breaks it up: its ids differ there from those of
  transformers, and are still no marks.

## What only the engine of nanochat-RAG does

- **Citations that resolve.** It samples by a grammar: an answer to documents cites one of those shown, each once, or
  abstains. Elsewhere nothing keeps the model from citing a document that does not exist, or none.
- **Room.** It drops or shortens the worst documents when a conversation is too long for {context} tokens. Elsewhere a
  long one is an error or is cut.
- **Refusal in words.** `{abstain}` becomes a sentence there, and citations become `[1]`.
{limits}"""

_OWN_VOCABULARY = """\
- This vocabulary was trained for this model. The converter knows vocabularies by name and stops at others with
  "BPE pre-tokenizer was not recognized" (as in ggml-org/llama.cpp#27277): its `get_vocab_base_pre` then needs an entry
  whose pattern keeps digits single."""
_IMPORTED_VOCABULARY = """\
- Text has the ids of the vocabulary that the weights were published with, so the converter should know it; our 64 marks
  stand behind it."""
_PIECES = """ (This vocabulary also reads {pieces} in texts, which only the template prevents.)"""


def readme_text(
    *,
    name: str,
    architecture: str,
    config: ModelConfig,
    tokenizer: Tokenizer,
    num_parameters: int,
    dtype: str = "float32",
    source: str = "",
    limits: Sequence[str] = (),
) -> str:
    """The README.md of an exported model.

    architecture: its class in transformers. source: where the weights come from. limits: what other programs cannot do
    with it, one sentence each.
    """
    marks = {mark: tokenizer.token(mark) for mark in ("assistant_start", "assistant_end", "cite", "abstain")}
    marks |= {mark: tokenizer.token(mark) for mark in ("doc_0", "doc_1")}
    pieces = " and ".join(f"`{piece}`" for piece in tokenizer.control_pieces[:3])
    return _TEXT.format(
        name=name,
        slug="".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-.") or "model",
        shape=_shape(architecture, config, tokenizer, num_parameters, dtype),
        source=f"\nThe weights come from {source}." if source else "",
        architecture=architecture,
        num_slots=NUM_DOC_SLOTS,
        context=f"{config.sequence_len:,}",
        cite_pattern=_pattern(marks["cite"]) + _pattern(marks["doc_0"]).replace("0", r"(\d+)"),
        pieces=_PIECES.format(pieces=pieces) if pieces else "",
        vocabulary=_IMPORTED_VOCABULARY if isinstance(tokenizer, ImportedTokenizer) else _OWN_VOCABULARY,
        limits=_limits(limits),
        **marks,
    )


def _shape(architecture: str, config: ModelConfig, tokenizer: Tokenizer, num_parameters: int, dtype: str) -> str:
    kinds = [f"{config.block_pattern.count('M')} Mamba-2", f"{config.block_pattern.count('T')} attention"]
    layers = " and ".join(kind for kind in kinds if not kind.startswith("0 "))
    return (
        f"A `{architecture}`: {layers} layers of width {config.n_embd}, {num_parameters:,} parameters in {dtype},\n"
        f"{tokenizer.vocab_size:,} tokens in the vocabulary, contexts of up to {config.sequence_len:,} tokens. "
        "Made with nanochat-RAG."
    )


def _pattern(mark: str) -> str:
    return mark.replace("|", r"\|")


def _limits(limits: Sequence[str]) -> str:
    if not limits:
        return ""
    return "\n## Limits of this export\n\n" + "\n".join(f"- {limit}" for limit in limits) + "\n"
