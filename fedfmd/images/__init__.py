"""Image files to 8-bit RGB: the rules for one, and many by several processes; without PyTorch."""
