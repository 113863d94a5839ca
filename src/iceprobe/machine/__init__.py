"""The machine: processes, signals, memory, matrix products, object storage, files, locks."""
