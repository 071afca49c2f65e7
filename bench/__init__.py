"""Measures the site: clients that put loads on it and time its answers, and the reports of what they found."""
