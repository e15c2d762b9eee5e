"""The `mdmf` command. Thin: it parses, calls a flow or a task, and prints."""
