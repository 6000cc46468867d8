"""Whole data sets: a BIDS App that super-resolves every scan, on as many processes and machines as there are."""
