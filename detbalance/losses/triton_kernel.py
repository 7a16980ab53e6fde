"""The sigmoid kernel for CUDA in one pass over the logits, written in Triton."""

AVAILABLE = False
