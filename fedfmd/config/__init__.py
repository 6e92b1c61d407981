"""Every key with its range, unit and meaning; one reader, one voice for errors."""
