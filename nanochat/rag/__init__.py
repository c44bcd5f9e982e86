"""Fine-tuning on retrieved documents, and answering from them."""
