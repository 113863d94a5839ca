"""Shared by all packages: errors, spec strings, registries, text, checksums. Imports no torch."""
