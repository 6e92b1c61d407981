"""Real clients: each one has its own machine, its own pictures, and a server that sees neither."""
