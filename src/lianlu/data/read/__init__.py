"""Readers, a file for each format: from a file that holds many documents to its pieces, or from bytes to text."""
