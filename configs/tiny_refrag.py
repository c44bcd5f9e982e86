"""REFRAG of the tiny hybrid on a CPU: traces up to three hops, then rewards. Give --knowledge_base."""

source = "rag"
retriever_type = "bm25"
max_hops = 3
top_k_per_hop = 3
world_share = 0.9
num_steps = 5000
device_batch_size = 16
max_seq_len = 1024
init_lr_frac = 0.3
warmup_steps = 10
eval_every = 100
rl_steps = 48
rl_eval_every = 16
dev_questions = 120
gold_steps = 0
rl_lr = 3e-4
questions_per_step = 16
group_size = 8
max_query_tokens = 32
max_answer_tokens = 32
