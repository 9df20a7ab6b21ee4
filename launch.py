"""Start the command line from a checkout: ``python launch.py run xfs-aio-4k-tuned``.

The agents' processes import the main module again: nothing lies outside the guard, so that they do
not load what only the command line needs.
"""

if __name__ == "__main__":
    from emulator.cli import main

    main()
