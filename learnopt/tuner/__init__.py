"""Learning rate, schedule and weight decay for a new data set."""
