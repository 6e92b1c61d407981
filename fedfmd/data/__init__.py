"""Images in memory, who has them, and how they become batches."""
