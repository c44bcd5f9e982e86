"""How good a search is: judgements, metrics, tests of differences, the page of queries."""
