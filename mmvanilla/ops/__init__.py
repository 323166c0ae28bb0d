"""The fused series activation, fast depthwise gradients and activation checkpointing."""
