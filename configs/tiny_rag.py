"""RAG fine-tuning of the tiny hybrid on a CPU. Give --knowledge_base on the command line."""

source = "mid"
retriever_type = "simple"
top_k = 3
base_tasks = ""
device_batch_size = 8
max_seq_len = 512
