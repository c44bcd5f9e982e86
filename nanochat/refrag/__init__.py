"""REFRAG: a model that asks again; its training data, rewards and reinforcement learning."""
