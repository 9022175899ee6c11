"""`python -m convert.cli`."""

from convert.cli import main

main()
