"""A vocabulary from elsewhere: its ids as they are, reserved ids behind them, its control tokens out of reach."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from nanochat.tokenizer.pipeline import added_tokens, adopted, build_backend, is_control, unknown_id, unusable
from nanochat.tokenizer.reserved import NUM_RESERVED, PREFIXES, RESERVED_NAMES, reserved_tokens, without_lone_surrogates
from nanochat.tokenizer.tokenizer import Tokenizer


class ImportedTokenizer(Tokenizer):
    """A Tokenizer whose vocabulary, ids 0 ... n-1, somebody else has made; the reserved ids are n ... n+63.

    A space stands for itself: nothing is put before a text, and `" " + text` has the ids that the source gives to
    `text` at the start of a sentence. Text never gives a control token of the source, nor a reserved id.
    """

    def __init__(self, backend: Backend, content: Mapping[str, Any], *, first_reserved: int, prefix: str) -> None:
        super().__init__(backend, first_reserved=first_reserved, prefix=prefix)
        unknown, ours = unknown_id(content), range(first_reserved, first_reserved + NUM_RESERVED)
        control = {
            entry["content"]: entry["id"]
            for entry in added_tokens(content)
            if entry["id"] not in ours and is_control(entry)
        }
        self._control_tokens = tuple(control)
        self._unreachable = frozenset(control.values()) - {unknown} | set(ours)
        # a vocabulary of whole pieces holds "<s>" like any other piece, whatever the list of added tokens says
        self._pieces = tuple(token for token, i in control.items() if i in self._unreachable and self._reads(token, i))
        self._cuts = re.compile("|".join(f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in self._pieces) or "$^")
        self._marks = self._unreachable | ({unknown} if unknown is not None else set())
        has_bytes = content["model"].get("byte_fallback") is True
        names = [(backend.token_to_id(f"<0x{byte:02X}>"), byte) for byte in range(256 if has_bytes else 0)]
        self._byte_of = {i: byte for i, byte in names if i is not None}
        self._is_byte_level = "ByteLevel" in json.dumps(content.get("decoder"))
        self._anchor = [] if self._is_byte_level else self._find_anchor()
        self._anchor_text = self._backend.decode(self._anchor)

    @classmethod
    def adopt(
        cls,
        content: Any,
        *,
        extra_tokens: Sequence[Mapping[str, Any]] = (),
        control: Iterable[str] = (),
        where: str,
    ) -> "ImportedTokenizer":
        """Take over a published tokenizer.json and put the reserved ids behind its vocabulary.

        extra_tokens: added tokens that stand in another file only, in the order of their ids. control: tokens that are
        control tokens whatever tokenizer.json says. Raises CheckpointError naming `where`.
        """
        return cls.from_content(adopted(content, extra_tokens=extra_tokens, control=control, where=where), where=where)

    @classmethod
    def from_content(cls, content: Any, *, where: str) -> "ImportedTokenizer":
        """Build from a tokenizer.json that has the reserved tokens. Raises CheckpointError naming `where`."""
        found = find_reserved(content)
        assert found is not None, f"{where} has no reserved tokens"
        first, prefix = found
        backend = build_backend(content, where=where)
        for entry in added_tokens(content):
            if backend.token_to_id(entry["content"]) != entry["id"]:
                raise unusable(where, f"the token {entry['content']!r} does not get its id {entry['id']}")
        num_ids, last = backend.get_vocab_size(with_added_tokens=True), max(backend.get_vocab().values())
        if last + 1 != num_ids:
            raise unusable(where, f"it has {num_ids} tokens with ids up to {last}")
        return cls(backend, content, first_reserved=first, prefix=prefix)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, never a reserved one nor a control token; a lone surrogate becomes U+FFFD."""
        return self._encode_plain(without_lone_surrogates(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        batch = super().encode_batch(texts)
        for place, text in enumerate(texts):
            if (self._pieces and self._cuts.search(text)) or not self._unreachable.isdisjoint(batch[place]):
                batch[place] = self.encode(text)
        return batch

    def _encode_plain(self, text: str) -> list[int]:
        if not self._pieces:
            return self._encode_part(text)
        return [token for part in self._cuts.split(text) if part for token in self._encode_part(part)]

    def _encode_part(self, text: str) -> list[int]:
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = encoding.ids
        return ids if self._unreachable.isdisjoint(ids) else self._encode_in_parts(text, encoding)

    def _encode_in_parts(self, text: str, encoding: Encoding) -> list[int]:
        """Ids of a text of which a normalizer makes a control token, with cuts inside of what becomes one."""
        parts, start = [], 0
        for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._unreachable and begin >= start:
                # one character that stands for a control token has no other spelling and is left out
                parts += [text[start : begin + 1] if end - begin > 1 else text[start:begin]]
                start = begin + 1
        parts.append(text[start:])
        if max(map(len, parts)) == len(text):
            # the pipeline says nothing of where in the text the token comes from
            return [token for token in encoding.ids if token not in self._unreachable]
        return [token for part in parts if part for token in self._encode_part(part)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without reserved and control tokens; bytes that are not UTF-8 become U+FFFD.

        The text of a piece does not depend on what stands before it: a space at its start stays.
        """
        kept = [i for i in ids if i not in self._marks]
        if not self._byte_of:
            return self._decode_run(kept)
        # the library replaces a whole run of bytes when its last character is unfinished
        return "".join(
            bytes(map(self._byte_of.get, run)).decode("utf-8", "replace") if are_bytes else self._decode_run(run)
            for are_bytes, run in groupby(kept, self._byte_of.__contains__)
        )

    def _decode_run(self, ids: Iterable[int]) -> str:
        return self._backend.decode([*self._anchor, *ids], skip_special_tokens=False)[len(self._anchor_text) :]

    def is_reserved(self, token: int) -> bool:
        """Whether an id is one of ours, a control token or the unknown token of the source."""
        return token in self._marks

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The source's own control tokens as they are written."""
        return self._control_tokens

    @property
    def control_pieces(self) -> tuple[str, ...]:
        """Those of the control tokens that the vocabulary itself reads in a text."""
        return self._pieces

    def bytes_per_id(self) -> list[int]:
        """UTF-8 bytes that each id stands for, 0 for marks."""
        added = {i for i in self._backend.get_added_tokens_decoder()}
        sizes = []
        for i in range(self.vocab_size):
            name = self._backend.id_to_token(i)
            if self.is_reserved(i) or name is None:
                sizes.append(0)
            elif self._is_byte_level and i not in added:
                sizes.append(len(name))
            else:
                sizes.append(1 if i in self._byte_of else len(self.decode([i]).encode()))
        return sizes

    def _reads(self, token: str, token_id: int) -> bool:
        texts = (token, f" {token}", f"a{token}a")
        return any(token_id in self._backend.encode(text, add_special_tokens=False).ids for text in texts)

    def _find_anchor(self) -> list[int]:
        """An id to decode in front of others: decoders strip or add a space at the very start only."""
        for token in (*self._backend.encode("a", add_special_tokens=False).ids, *range(self._first)):
            if token in self._marks:
                continue
            text = self._backend.decode([token], skip_special_tokens=False)
            if text.strip() and "\ufffd" not in text and self._backend.decode([token, token]).startswith(text):
                return [token]
        return []


def find_reserved(content: Any) -> tuple[int, str] | None:
    """First id and prefix of the reserved tokens in a parsed tokenizer.json, None when it does not have all of them."""
    id_of = {entry["content"]: entry["id"] for entry in added_tokens(content)}
    for prefix in PREFIXES:
        ids = [id_of.get(token) for token in reserved_tokens(prefix)]
        if ids[0] is not None and ids == list(range(ids[0], ids[0] + len(RESERVED_NAMES))):
            return ids[0], prefix
    return None
