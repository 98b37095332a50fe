"""Licences: what a text says of its own, what files of a folder say together, and what a licence asks, as SPDX expressions."""
