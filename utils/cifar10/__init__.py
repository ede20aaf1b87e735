"""Entered when images are missing or doubted: how they are read and checked, where they come from."""
