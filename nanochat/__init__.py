"""nanochat-RAG: small hybrid language models that answer from your own documents."""
__version__ = "0.1.0"
