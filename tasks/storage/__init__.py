"""This room reads, lists and writes bytes on the local disk and in stores: with retries, verified, and whole or not at all."""
