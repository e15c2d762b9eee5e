"""The `mdmf` command. It parses options, calls a flow or a task, and prints; it computes nothing."""
