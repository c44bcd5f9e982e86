"""A hybrid that trains on a CPU in minutes. The convolution on q, k and v is what lets a model this small read."""

block_pattern = "T,M,T,M"
n_embd = 128
n_head = 4
n_kv_head = 4
mlp_hidden = 256
attention_conv = 4
d_state = 32
headdim = 32
sequence_len = 512
device_batch_size = 8
