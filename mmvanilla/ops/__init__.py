"""Kernels of the series activation: on CUDA, and the gradient of its convolution on a CPU."""
