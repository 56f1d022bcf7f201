"""One page to look at for finished runs."""
