"""`python -m pcam_tf`, the same as the script `pcam_tf`: the command line."""

import sys

from pcam_tf.commands.command_line import main

if __name__ == "__main__":
    sys.exit(main())
