"""What every count of costs takes for granted."""

TRAINING_MACS_PER_FORWARD = 3
"""A training step costs this many forward passes: forward, gradient by input, gradient by weight."""
FLOAT32_BYTES = 4
