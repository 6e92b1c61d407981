"""What the server does: draw, send, sum, step, evaluate, write; round after round."""
