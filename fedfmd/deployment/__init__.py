"""Real clients: each one has its own machine, its own images, and a server that sees neither."""
