"""Pre-training of a 20-layer hybrid: the depth dial, attention early, Mamba-2 late. Meant for 8 GPUs with 80 GB."""

depth = 20
block_pattern = "T," * 8 + "M," * 11 + "M"
device_batch_size = 16
