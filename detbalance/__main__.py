"""`python -m detbalance`."""

from detbalance.cli import main

main()
