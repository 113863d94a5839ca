"""Tokens that somebody has extracted already, in files: what they hold, and reading them piece by piece."""
