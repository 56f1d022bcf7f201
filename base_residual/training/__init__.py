"""Training: the step, the epochs, the run's folder, and those who are told how it goes."""
