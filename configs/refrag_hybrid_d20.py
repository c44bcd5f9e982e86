"""REFRAG of the 20-layer hybrid. Give --knowledge_base on the command line."""

source = "mid"
retriever_type = "simple"
max_hops = 3
top_k_per_hop = 3
use_rewards = True
device_batch_size = 2
max_seq_len = 4096
rl_lr = 5e-6
run = "refrag_hybrid_d20"
