"""A hybrid of 5 to 8 million parameters, by the size of the vocabulary, that a CPU trains in about an hour."""

depth = 4
num_tokens = 12_000_000
sequence_len = 512
device_batch_size = 8
grad_accum_steps = 2
practice_share = 0.1
decay_frac = 0.5
eval_every = 250
save_every = 250
