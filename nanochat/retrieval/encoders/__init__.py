"""From text to vectors: encoders with one protocol, found by the name of a model."""

from nanochat.retrieval.encoders.base import ENCODERS, Encoder, EncoderError, find_encoder, load_encoder

__all__ = ["ENCODERS", "Encoder", "EncoderError", "find_encoder", "load_encoder"]
