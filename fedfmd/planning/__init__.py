"""What a client is asked to do: limits, plans that keep within them, and the bill."""
