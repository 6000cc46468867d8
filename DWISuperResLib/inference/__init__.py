"""Whole scans through a network."""
