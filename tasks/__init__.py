"""Tasks: where conversations and practice questions come from."""
