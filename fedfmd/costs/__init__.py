"""What anything costs: MACs, memory, bytes; the scores that hold accuracy against them."""
