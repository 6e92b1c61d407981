"""What commands do once their arguments are read: imported when they run, so that --help waits for none."""
