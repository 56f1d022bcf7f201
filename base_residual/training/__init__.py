"""Training: the step, the epochs, the run's folder, and trackers."""
