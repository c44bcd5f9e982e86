"""The chat format as a Jinja template, for transformers, vLLM and llama.cpp: a conversation as one string of marks.

Rendered and encoded by an exported tokenizer it gives the ids of nanochat.chat_format.render without a token budget.
Besides the messages of our format it takes the usual argument `documents`, for the last question, and "text" for
"content" in a document. A template writes texts and no ids: `ids` of a message, as a rollout may store them, are not
looked at.
"""

from collections.abc import Sequence

from nanochat.tokenizer import NUM_DOC_SLOTS, Tokenizer
from nanochat.tokenizer.reserved import RESERVED_NAMES, reserved_tokens

# noncharacters of Unicode, which no text means. The template puts them into texts where they spell a control token.
# The exported tokenizer looks for control tokens and then drops BREAK, so that text stays text and keeps its ids.
# Where the vocabulary itself would read the token, it cuts the text at CUT, as ours does
BREAK, CUT = "\ufdd0", "\ufdd1"
# more control tokens than this are broken up by their first two characters, so that a template stays readable
_MAX_WHOLE = 24

_TEMPLATE = """\
{#- bos, then in every turn: results, question, answer; a hop of its own: query, results, the query once more -#}
{%- macro said(text) -%}
  {%- set text = text | trim -%}
  {%- if text -%}{{ " " ~ (text@BREAKS@) }}{%- endif -%}
{%- endmacro -%}
{%- set marks = [@DOCS@] -%}
{%- set ns = namespace(slot=0, last=0, found=none) -%}
{%- for message in messages -%}
  {%- if message.role == "user" -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{{- "@bos@" -}}
{%- for message in messages -%}
  {%- if message.role == "system" -%}
    {%- if not loop.first -%}{{- raise_exception("the system message comes first") -}}{%- endif -%}
    {%- if message.content | trim -%}{{- "@system_start@" ~ said(message.content) ~ "@system_end@" -}}{%- endif -%}
  {%- elif message.role == "user" -%}
    {%- set ns.found = none -%}
    {%- if loop.index0 > 0 and messages[loop.index0 - 1].role == "retrieval" -%}
      {%- set ns.found = messages[loop.index0 - 1] -%}
    {%- elif not loop.last and messages[loop.index0 + 1].role == "retrieval" -%}
      {%- set ns.found = messages[loop.index0 + 1] -%}
    {%- elif loop.index0 == ns.last and documents is defined and documents is not none -%}
      {%- set ns.found = {"documents": documents} -%}
    {%- endif -%}
    {%- set asked = "@user_start@" ~ said(message.content) ~ "@user_end@" -%}
    {%- set hops = [] -%}
    {%- if ns.found is not none and ns.found.multi_hop -%}
      {%- set hops = ns.found.hops -%}
    {%- elif ns.found is not none -%}
      {%- set hops = [{"query": message.content, "documents": ns.found.documents}] -%}
    {%- endif -%}
    {%- if not hops or (hops[0].query | trim) != (message.content | trim) -%}{{- asked -}}{%- endif -%}
    {%- for hop in hops -%}
      {%- set is_question = loop.first and (hop.query | trim) == (message.content | trim) -%}
      {%- if not is_question -%}{{- "@query_start@" ~ said(hop.query) ~ "@query_end@" -}}{%- endif -%}
      {{- "@results_start@" -}}
      {%- for document in hop.documents -%}
        {%- if ns.slot >= @NUM@ -%}{{- raise_exception("at most @NUM@ documents in a conversation") -}}{%- endif -%}
        {{- marks[ns.slot] -}}
        {%- if document.title and (document.title | trim) -%}{{- said(document.title) ~ marks[ns.slot] -}}{%- endif -%}
        {%- if document.content is defined -%}
          {{- said(document.content) -}}
        {%- else -%}
          {{- said(document.text) -}}
        {%- endif -%}
        {%- set ns.slot = ns.slot + 1 -%}
      {%- endfor -%}
      {{- "@results_end@@user_start@" ~ said(hop.query) ~ "@user_end@" -}}
    {%- endfor -%}
  {%- elif message.role == "assistant" -%}
    {%- if not (loop.last and add_generation_prompt) -%}
      {{- "@assistant_start@" -}}
      {%- if message.abstain -%}
        {%- set closest = message.closest if message.closest else [] -%}
        {%- for slot in closest -%}
          {%- if slot not in closest[:loop.index0] -%}{{- "@cite@" ~ marks[slot] -}}{%- endif -%}
        {%- endfor -%}
        {{- "@abstain@" -}}
      {%- else -%}
        {%- set cited = message.citations if message.citations else [] -%}
        {%- for slot in cited -%}
          {%- if slot not in cited[:loop.index0] -%}{{- "@cite@" ~ marks[slot] -}}{%- endif -%}
        {%- endfor -%}
        {{- said(message.content) -}}
      {%- endif -%}
      {{- "@assistant_end@" -}}
    {%- endif -%}
  {%- elif message.role != "retrieval" -%}
    {{- raise_exception("the role " ~ message.role ~ " is not one of system, retrieval, user, assistant") -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "@assistant_start@" -}}{%- endif -%}
"""


def chat_template(tokenizer: Tokenizer) -> str:
    """The template for a tokenizer: its marks, and what its control tokens look like in a text."""
    return _fill([tokenizer.token(name) for name in RESERVED_NAMES], tokenizer.control_tokens,
                 tokenizer.control_pieces)


def _fill(tokens: list[str], control: Sequence[str], pieces: Sequence[str]) -> str:
    token_of = dict(zip(RESERVED_NAMES, tokens, strict=True))
    docs = ", ".join(_literal(token_of[f"doc_{slot}"]) for slot in range(NUM_DOC_SLOTS))
    template = _TEMPLATE.replace("@BREAKS@", _breaks(control, pieces)).replace("@DOCS@", docs)
    template = template.replace("@NUM@", str(NUM_DOC_SLOTS))
    for name, token in token_of.items():
        template = template.replace(f"@{name}@", token)
    return template


def _breaks(control: Sequence[str], pieces: Sequence[str]) -> str:
    """Filters that break up what a text spells like a control token: all our own begin with "<|"."""
    others = [token for token in control if not token.startswith("<|") and token not in pieces]
    if len(others) > _MAX_WHOLE:
        others = list(dict.fromkeys(token[:2] for token in others))
    heads = [*((piece, CUT) for piece in pieces), ("<|", BREAK), *((token, BREAK) for token in others)]
    filters = ""
    for head, mark in heads:
        once = f" | replace({_literal(head)}, {_literal(head[0] + mark + head[1:])})"
        # of overlapping ones, such as "aa" in "aaa", the first pass breaks every second
        filters += once * 2 if head.startswith(head[-1]) else once
    return filters


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


CHAT_TEMPLATE = _fill(list(reserved_tokens()), (), ())
