"""Who is asked in a round: draws, what is known of those asked before, and the methods that look at it."""
