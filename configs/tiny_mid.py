"""Recalling facts, then answering from lists of them. Each stage ends when its gate is passed."""

stages = "recall,keys,names,facts"
num_steps = 1600
device_batch_size = 20
max_seq_len = 512
decay_frac = 0.0
eval_every = 25
retriever_type = "simple"
