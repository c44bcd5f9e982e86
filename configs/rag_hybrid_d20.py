"""RAG fine-tuning of the 20-layer hybrid. Give --knowledge_base on the command line."""

source = "mid"
retriever_type = "simple"
top_k = 5
base_tasks = "SmolTalk"
num_epochs = 1
device_batch_size = 4
max_seq_len = 4096
run = "rag_hybrid_d20"
