"""``python -m jaxfp4``."""

from jaxfp4.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
