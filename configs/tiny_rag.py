"""RAG fine-tuning of the tiny hybrid on a CPU. Give --knowledge_base on the command line."""

source = "mid"
retriever_type = "bm25"
top_k = 8
world_share = 0.9
base_tasks = ""
num_steps = 3600
device_batch_size = 18
max_seq_len = 1024
init_lr_frac = 1.0
decay_frac = 0.5
eval_every = 100
