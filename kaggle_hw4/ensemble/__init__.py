"""Blend members: their logits, the weights, what the blend is honestly worth, and the file that is sent."""
