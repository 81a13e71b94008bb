"""`python3 -m med42.cli`: the command where the package is only copied, as in the images."""

from med42.cli.main import app

if __name__ == "__main__":
    app(prog_name="med42")
