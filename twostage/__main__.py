"""`python -m twostage` is the command `twostage`."""

from twostage.commands.main import main

main()
