"""What crosses between server and workers, and how large it is."""
