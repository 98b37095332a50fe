"""`python -m lianlu` is `lianlu`."""

from lianlu.cli.main import main

main()
