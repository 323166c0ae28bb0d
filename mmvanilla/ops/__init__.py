"""How the net computes: the fused series activation, a fast gradient, activation checkpointing."""
