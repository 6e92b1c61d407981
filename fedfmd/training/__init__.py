"""What a worker does: train the clients of an order, one after another."""
