"""The machine under the program: processes, signals, memory, products, object storage, files, locks."""
