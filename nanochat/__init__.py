"""nanochat-RAG: small hybrid language models that answer from your own documents."""
