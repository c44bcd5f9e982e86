"""Pre-training of a 20-layer hybrid: attention early, Mamba-2 late. Meant for 8 GPUs with 80 GB."""

_depth = 20
block_pattern = "T," * 8 + "M," * 11 + "M"
n_embd = _depth * 64
n_head = n_embd // 128
n_kv_head = n_embd // 128
mlp_hidden = 4 * n_embd
d_state = 128
headdim = 64
sequence_len = 2048
device_batch_size = 16
