"""Measurements as Markdown, as JSON and as a picture."""
