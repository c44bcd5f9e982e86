"""The retrievers of the table, and what they are made of."""
