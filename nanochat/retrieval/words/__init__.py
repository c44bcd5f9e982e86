"""From text to search terms."""
