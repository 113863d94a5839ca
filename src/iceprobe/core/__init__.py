"""Used by every other package: errors, spec strings, registries, text, checksums. Imports no torch."""
