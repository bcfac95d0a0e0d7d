"""Task families and suites."""
