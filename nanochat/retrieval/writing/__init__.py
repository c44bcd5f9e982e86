"""Changes of a knowledge base: one writer at a time, whole or not at all."""
