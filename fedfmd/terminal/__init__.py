"""What a person at a terminal sees: live bars and tables."""
