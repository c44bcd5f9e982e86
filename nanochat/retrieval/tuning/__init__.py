"""An encoder that learns from the user's own documents, without labels and without downloads.

`pseudo_queries` asks for passages with their own titles and words, `negatives` finds passages that look alike,
`adapter` learns a map for the vectors of queries, `full` trains the whole model, `installing` writes the next version
of the knowledge base. scripts/kb_tune_encoder.py puts them together, and measures before it installs.
"""
