"""``python -m quals_fast`` is the command line."""

from quals_fast.commands.app import main

if __name__ == "__main__":
    main()
