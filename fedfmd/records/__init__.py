"""What a run leaves behind: its directory, its clients' kept state, its figures elsewhere."""
