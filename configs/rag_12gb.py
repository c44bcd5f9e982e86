"""RAG fine-tuning on one GPU with 12 GB: small batches, short conversations, cut documents."""

source = "mid"
retriever_type = "simple"
top_k = 3
device_batch_size = 2
grad_accum_steps = 8
max_seq_len = 2048
max_doc_length = 300
