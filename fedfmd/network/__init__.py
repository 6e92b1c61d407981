"""A network as the federation sees it: one vector, its parts, and what they cost."""
