"""GPU engines built from a bundle."""
