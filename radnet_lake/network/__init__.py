"""The networks: takes tensors (B, 1, D, H, W), gives predictions, losses and weights.

Read first: resnet.py (encoder and heads), then vnet.py (segmentation).
"""
