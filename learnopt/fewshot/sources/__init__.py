"""Where tasks come from, one file each."""
