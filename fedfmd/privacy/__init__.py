"""What a run promises of its clients: how much is known of any one of them, and the noise for it."""
