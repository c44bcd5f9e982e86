"""A hybrid that learns to read on a CPU in minutes. Attention first, with a convolution on q, k and v; tokens know
their document's slot."""

block_pattern = "T,M,T"
n_embd = 128
n_head = 4
n_kv_head = 4
mlp_hidden = 128
attention_conv = 4
slot_scale = 0.5
d_state = 32
headdim = 32
chunk_size = 32
sequence_len = 1024
device_batch_size = 4
num_steps = 60
practice_share = 0.5
decay_frac = 0.0
eval_every = 0
