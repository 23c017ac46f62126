"""Measures of pictures: image sets, the networks that look at them, their weights, and what is computed."""
