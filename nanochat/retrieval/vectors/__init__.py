"""Vectors on disk and the search for the nearest: exact for small collections, product quantisation above."""
