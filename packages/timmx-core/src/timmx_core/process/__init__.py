"""What a process has one of: signals, output, memory, paths, PyTorch's settings."""
