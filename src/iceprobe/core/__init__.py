"""What every room stands on: errors, spec strings, registries, texts, checksums. It imports no torch."""
